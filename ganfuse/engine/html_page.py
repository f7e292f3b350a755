"""The frame of the HTML pages that we write: everything is inside, nothing is loaded."""

import html

__all__ = ["html_page"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
.quiet { color: var(--quiet); } .tiles { display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; }
.tiles div { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem; }
.tiles b { display: block; font-size: 1.25rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 1rem; }
.curves svg { width: 100%; height: auto; background: #fff; border-radius: 6px; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; } th { font-weight: 500; color: var(--quiet); white-space: nowrap; }
#samples img { max-width: 100%; image-rendering: pixelated; border-radius: 6px; display: block; }
#samples input { width: 100%; max-width: 640px; }
"""


def html_page(title: str, body: str) -> str:
    """A page in light or dark, as the reader has it.

    Args:
        title: plain text. body: HTML.
    """
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )
