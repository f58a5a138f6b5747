"""Makes golden/templates/: what transformers renders of chat templates.

    python make_templates.py FOLDER_OF_TEMPLATES OUT [NAME…]

FOLDER_OF_TEMPLATES is models/templates of llama.cpp's source. The named templates are
copied to OUT with rendered.json; without names all of the folder are.

Times become \x01FORMAT\x02, so that the result does not depend on the day.
"""

import json
import sys
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers.utils import chat_template_utils


def turn(role, content):
    return {"role": role, "content": content}


SYSTEM = turn("system", "You answer in one word.")
HARD = '  <b>"é" & \'ß\'</b>\\n\n\n{{ 1 }} {% raw %}\t日本 🙂‍↕️  '
CONVERSATIONS = [
    ([turn("user", "Hi")], True),
    ([SYSTEM, turn("user", "Hi")], True),
    ([turn("user", "a"), turn("assistant", "b"), turn("user", "c")], True),
    ([SYSTEM, turn("user", "a"), turn("assistant", "b")], False),
    ([SYSTEM, turn("user", HARD), turn("assistant", HARD), turn("user", HARD)], True),
    ([turn("user", "a"), turn("assistant", "<think>\nhm\n</think>\n\nb"), turn("user", "c")], True),
]


class Moment:
    """Stands in for datetime: shows the format instead of a time."""

    @staticmethod
    def now(*_):
        return Moment()

    def strftime(self, format):
        return f"\x01{format}\x02"


def render(source, messages, add_generation_prompt):
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[messages],
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            bos_token="<BOS>",
            eos_token="<EOS>",
        )
        return {"text": rendered[0]}
    except (TemplateError, TypeError, ValueError) as error:
        return {"error": str(error)}


def main(folder, out, names):
    chat_template_utils.datetime = Moment
    out.mkdir(parents=True, exist_ok=True)
    rendered = {}
    for name in names or sorted(path.stem for path in folder.glob("*.jinja")):
        source = (folder / f"{name}.jinja").read_text(encoding="utf-8")
        (out / f"{name}.jinja").write_text(source, encoding="utf-8")
        rendered[name] = [render(source, *case) for case in CONVERSATIONS]
    cases = [
        {"messages": messages, "add_generation_prompt": add} for messages, add in CONVERSATIONS
    ]
    golden = {"cases": cases, "rendered": rendered}
    text = json.dumps(golden, indent=1, ensure_ascii=False) + "\n"
    (out / "rendered.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
