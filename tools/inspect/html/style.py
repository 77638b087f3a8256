"""The page's style. It is the only one: the page's policy names it by its hash, so nothing else is applied."""

from __future__ import annotations

import base64
import hashlib

from .elements import Html

CSS = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5c6675; --faint: #e4e7ec; --paper: #fff; --page: #f6f7f9;
  --a: #e7f0fb; --b: #fdf1dc; --a-edge: #5b8fd1; --b-edge: #cf9433; --special: #b3261e; --mark: #b3261e;
  --c0: #3d77c2; --c1: #d98a29; --c2: #3d9a6b; --c3: #b85c9e; --c4: #7a6bc7; --c5: #2f9aa8; --c6: #b7553e;
  --c7: #7c8796;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b2; --faint: #303743; --paper: #1b2029;
  --page: #13171e; --a: #1f3350; --b: #40331a; --a-edge: #6fa3e3; --b-edge: #e0a94a; --special: #ff8f85;
  --mark: #ff8f85;
  --c0: #6a9fe4; --c1: #e8a24f; --c2: #5fc08d; --c3: #d684bd; --c4: #a193ea; --c5: #54bfcc; --c6: #dd7f68;
  --c7: #99a4b3;
  --bad: #ff8f85; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
header { margin: 0 0 1.5rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .25rem; }
h3 { font-size: .95rem; margin: 0 0 .35rem; overflow-wrap: anywhere; }
p { margin: 0 0 .5rem; }
section { background: var(--paper); border: 1px solid var(--faint); border-radius: .75rem; padding: 1.1rem 1.2rem;
  margin: 0 0 1rem; }
code, .ids, .value, td.n, .hash { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: .88em; }
.note, .sub { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .6rem; margin: 1rem 0 0; }
.tile { background: var(--paper); border: 1px solid var(--faint); border-radius: .75rem; padding: .65rem .8rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.25; overflow-wrap: anywhere; }
.tile span { color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; margin: .5rem -1.2rem 0; padding: 0 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: .82rem; vertical-align: bottom; }
th, td { padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--faint); }
tr:last-child td { border-bottom: 0; }
tfoot td { font-weight: 600; border-top: 2px solid var(--faint); border-bottom: 0; }
td { overflow-wrap: anywhere; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.name { min-width: 7rem; }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: .2rem; margin-right: .45rem;
  vertical-align: -.05rem; }
.bars { display: grid; grid-template-columns: minmax(4rem, max-content) 1fr max-content; gap: .4rem .8rem;
  align-items: center; margin-top: .6rem; }
.bars .label { max-width: 14rem; overflow-wrap: anywhere; line-height: 1.3; }
.bars .value { text-align: right; color: var(--soft); white-space: nowrap; }
.bars svg { width: 100%; height: .95rem; display: block; border-radius: .2rem; background: var(--faint); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1.1rem 1.4rem;
  margin-top: .7rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1.2rem 2rem; }
.histogram { width: 100%; height: auto; display: block; }
.histogram text { fill: var(--soft); font-size: 10.5px; }
.axis { stroke: var(--soft); stroke-width: 1; }
.mark { stroke: var(--mark); stroke-width: 1; stroke-dasharray: 3 3; }
.outline { fill: none; stroke: var(--ink); stroke-width: 1.2; opacity: .65; }
.light { opacity: .5; }
.c0 { fill: var(--c0); background: var(--c0); } .c1 { fill: var(--c1); background: var(--c1); }
.c2 { fill: var(--c2); background: var(--c2); } .c3 { fill: var(--c3); background: var(--c3); }
.c4 { fill: var(--c4); background: var(--c4); } .c5 { fill: var(--c5); background: var(--c5); }
.c6 { fill: var(--c6); background: var(--c6); } .c7 { fill: var(--c7); background: var(--c7); }
.row { position: relative; margin: .6rem 0 1.1rem; }
.rowhead { display: flex; flex-wrap: wrap; gap: 0 .8rem; font-size: .85rem; color: var(--soft); margin-bottom: .3rem;
  overflow-wrap: anywhere; }
.text { border: 1px solid var(--faint); border-radius: .5rem; padding: .6rem .7rem; max-height: 24rem; overflow: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem; line-height: 1.65; }
.doc { unicode-bidi: isolate; padding: .12em 0; outline-offset: 1px; }
.doc.a { background: var(--a); border-left: .2rem solid var(--a-edge); }
.doc.b { background: var(--b); border-left: .2rem solid var(--b-edge); }
.badge { font: 600 .7rem/1 ui-monospace, SFMono-Regular, Menlo, monospace; color: var(--paper);
  border-radius: 0 .2rem .2rem 0;
  padding: .12rem .3rem; margin-right: .3rem; vertical-align: .1em; white-space: nowrap; unicode-bidi: isolate; }
.doc.a .badge { background: var(--a-edge); } .doc.b .badge { background: var(--b-edge); }
.tip { display: none; }
.doc:hover .tip, .doc:focus .tip { display: flex; flex-wrap: wrap; gap: .1rem .9rem; position: absolute; left: .5rem;
  right: .5rem; bottom: .5rem; z-index: 1; padding: .45rem .7rem; border-radius: .4rem; background: var(--ink);
  color: var(--paper); font: 13px/1.4 system-ui, sans-serif; white-space: normal; pointer-events: none;
  box-shadow: 0 2px 10px rgb(0 0 0 / .3); }
.special { font: 600 .72rem/1 ui-monospace, SFMono-Regular, Menlo, monospace; color: var(--special);
  border: 1px solid currentColor; border-radius: .25rem; padding: .05rem .25rem; margin: 0 .15rem;
  white-space: nowrap; }
.cut { color: var(--soft); font-size: .8rem; border: 1px dashed var(--soft); border-radius: .3rem; padding: 0 .35rem;
  margin: 0 .2rem; white-space: nowrap; }
.cut::before, .cut::after { content: " … "; }
.esc { color: var(--special); font: .8em ui-monospace, monospace; }
.more { color: var(--soft); }
.column { font-size: .9rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0 0; }
blockquote { margin: .5rem 0 .9rem; padding: .5rem .8rem; border-left: .2rem solid var(--faint); white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .9rem; unicode-bidi: isolate; max-height: 16rem; overflow: auto; }
details { margin: .3rem 0; } summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; color: var(--soft); margin: .3rem 0; }
footer { color: var(--soft); font-size: .85rem; text-align: center; margin-top: 1.5rem; }
@media (max-width: 34rem) { main { padding: 1rem .6rem 2rem; } section { padding: .9rem .8rem; }
  .scroll { margin: .5rem -.8rem 0; padding: 0 .8rem; } .bars { grid-template-columns: minmax(3rem, 7rem) 1fr
  max-content; gap: .35rem .5rem; font-size: .85rem; } h1 { font-size: 1.4rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; } .tiles { grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)); } }
@media print { body { background: none; } section { break-inside: avoid; } .text { max-height: none; } }
"""

POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)


def style() -> Html:
    """Return the element with the style; nothing in it is escaped, so that its hash is that of the policy."""
    return Html(f"<style>{CSS}</style>")
