"""What the programs were made of: a bill of materials, and the licences of all parts."""

import hashlib
import json
import re
import subprocess
import uuid
from pathlib import Path

TARGET = "x86_64-unknown-linux-gnu"


def metadata(root):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]
    return json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout)


def closure(found, names):
    """The packages that the named ones of the workspace link, those included."""
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    packages = {package["id"]: package for package in found["packages"]}
    members = set(found["workspace_members"])
    ahead = [key for key in members if packages[key]["name"] in names]
    seen = set()
    while ahead:
        key = ahead.pop()
        if key in seen:
            continue
        seen.add(key)
        for dependency in nodes[key]["deps"]:
            # Neither what only builds nor what only tests.
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                ahead.append(dependency["pkg"])
    linked = [packages[key] for key in seen]
    return sorted(linked, key=lambda package: (package["name"], package["version"])), nodes, seen


def checksums(root):
    """The sha256 of each crate, as Cargo.lock holds it."""
    text = (root / "Cargo.lock").read_text()
    pattern = r'name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "(.+)"'
    return {(name, version): sum for name, version, sum in re.findall(pattern, text)}


def llama_cpp(packages):
    """The folder of the llama.cpp that was compiled in."""
    crate = next(p for p in packages if p["name"] == "llama-cpp-sys-2")
    return Path(crate["manifest_path"]).parent / "llama.cpp"


def bill(root, found, names, version, extra=()):
    """CycloneDX 1.5, which names the parts, their licences and digests."""
    packages, nodes, seen = closure(found, names)
    sums = checksums(root)
    references = {}
    components = []
    for package in packages:
        name, number = package["name"], package["version"]
        reference = f"pkg:cargo/{name}@{number}"
        references[package["id"]] = reference
        component = {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": number,
            "purl": reference,
        }
        if package["license"]:
            # Old crates separate licences by a slash.
            text = package["license"].replace("/", " OR ")
            component["licenses"] = [{"expression": text}]
        if (name, number) in sums:
            component["hashes"] = [{"alg": "SHA-256", "content": sums[name, number]}]
        components.append(component)
    crate = next(p for p in packages if p["name"] == "llama-cpp-sys-2")
    engine = {
        "type": "library",
        "bom-ref": "llama.cpp",
        "name": "llama.cpp",
        # The crate's release holds one state of it.
        "version": f"as in llama-cpp-sys-2 {crate['version']}",
        "licenses": [{"license": {"id": "MIT"}}],
    }
    components.append(engine)
    components += [
        {"type": "library", "bom-ref": name, "name": name, "version": number, "licenses": licences}
        for name, number, licences in extra
    ]
    dependencies = [
        {
            "ref": references[key],
            "dependsOn": sorted(
                {references[d["pkg"]] for d in nodes[key]["deps"] if d["pkg"] in seen}
                | ({"llama.cpp"} if key == crate["id"] else set())
            ),
        }
        for key in sorted(seen, key=lambda key: references[key])
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": names[0], "version": version}},
        "components": components,
        "dependencies": dependencies,
    }
    text = json.dumps(document, sort_keys=True)
    serial = uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4)
    document["serialNumber"] = f"urn:uuid:{serial}"
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def licences(found, names):
    """The licence texts of all parts; one that several parts have in common stands once."""
    packages = closure(found, names)[0]
    owners = {}
    for package in packages:
        folder = Path(package["manifest_path"]).parent
        where = f"{package['name']} {package['version']} ({package['license']})"
        own = package["id"] in found["workspace_members"]
        texts = [] if own else sorted(folder.glob("LICEN[CS]E*")) + sorted(folder.glob("COPYING*"))
        for path in texts:
            if path.is_file():
                owners.setdefault(path.read_text(errors="replace").strip(), []).append(where)
    engine = llama_cpp(packages) / "LICENSE"
    owners.setdefault(engine.read_text().strip(), []).append("llama.cpp (MIT)")
    parts = [f"{', '.join(sorted(set(names)))}\n\n{text}\n" for text, names in owners.items()]
    return ("\n" + "-" * 80 + "\n\n").join(sorted(parts))
