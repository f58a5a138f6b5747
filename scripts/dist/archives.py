"""Archives whose bytes follow from what is in them: sorted names, one time, no owner."""

import gzip
import hashlib
import io
import tarfile
import time
import zipfile
from base64 import urlsafe_b64encode


class Files:
    """Files of a package, by their names in it."""

    def __init__(self):
        self.entries = {}

    def add(self, name, data, mode=0o644):
        """Adds a file; `data` is a path, bytes or text."""
        if isinstance(data, str):
            data = data.encode()
        elif not isinstance(data, bytes):
            data = data.read_bytes()
        assert name not in self.entries, name
        self.entries[name] = (data, mode)

    def tree(self, prefix, folder):
        """Adds all files of a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.add(f"{prefix}{path.relative_to(folder)}", path)

    def sorted(self):
        return sorted(self.entries.items())

    def size(self):
        return sum(len(data) for data, _ in self.entries.values())


def gzipped(data):
    out = io.BytesIO()
    # No name and no time of its own.
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(data)
    return out.getvalue()


def tar_gz(files, epoch, prefix=""):
    """A tar with all folders, as dpkg wants them."""
    out = io.BytesIO()
    folders = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def put(name, kind, mode, data=b""):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.size = kind, mode, epoch, len(data)
            info.uname = info.gname = "root"
            tar.addfile(info, io.BytesIO(data))

        for name, (data, mode) in files.sorted():
            full = prefix + name
            parts = full.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth]) + "/"
                if folder not in folders and folder != "./":
                    folders.add(folder)
                    put(folder, tarfile.DIRTYPE, 0o755)
            put(full, tarfile.REGTYPE, mode, data)
    return gzipped(out.getvalue())


def wheel(files, epoch, info):
    """A wheel; `info` is the name of its dist-info folder."""

    def digest(data):
        return urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

    # A path of bin or lib has no comma, which a record would have to quote.
    lines = [f"{name},sha256={digest(data)},{len(data)}\n" for name, (data, _) in files.sorted()]
    record = f"{info}/RECORD"
    files.add(record, "".join(lines) + f"{record},,\n")
    out = io.BytesIO()
    # The oldest time that a zip can tell is in 1980.
    moment = time.gmtime(max(epoch, 315532800))[:6]
    with zipfile.ZipFile(out, "w") as file:
        for name, (data, mode) in files.sorted():
            entry = zipfile.ZipInfo(name, moment)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            file.writestr(entry, data, compresslevel=9)
    return out.getvalue()


def deb(control, data, epoch):
    """A Debian package of two archives."""
    out = [b"!<arch>\n"]
    members = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", control),
        ("data.tar.gz", data),
    ]
    for name, content in members:
        head = f"{name:<16}{epoch:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        out += [head.encode(), content, b"\n" if len(content) % 2 else b""]
    return b"".join(out)
