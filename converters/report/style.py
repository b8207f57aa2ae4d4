"""The style of the pages."""

from typing import Final

COLOURS: Final = """\
:root {
  color-scheme: light dark;
  --page: #f5f6f8; --card: #ffffff; --ink: #18202b; --muted: #596373; --line: #dde2e9;
  --first: #2b62b5; --second: #c0631a; --good: #1f7a4d; --bad: #b3313a; --tint: #eef2f8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --card: #191f27; --ink: #e7ebf0; --muted: #9ba6b5; --line: #303945;
    --first: #79a8f0; --second: #eba063; --good: #63c493; --bad: #ef7f86; --tint: #202834;
  }
}
"""

CSS: Final = (
    COLOURS
    + """\
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 74rem; margin: 0 auto; padding: 2.2rem 1.2rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h1 small { font-weight: 400; color: var(--muted); font-size: 1.15rem; letter-spacing: 0; margin-left: .35rem; }
h2 { font-size: 1.2rem; margin: 0 0 .3rem; letter-spacing: -0.01em; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .35rem 0 .9rem; max-width: 46rem; }
.quiet, figcaption, caption { color: var(--muted); font-size: .92rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.3rem 1.4rem;
  margin-top: 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem;
  margin: 1.3rem 0 0; padding: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem; }
.tiles dt { color: var(--muted); font-size: .86rem; }
.tiles dd { margin: .1rem 0 0; font-size: 1.32rem; font-weight: 600; line-height: 1.25;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .6rem -1.4rem 0; padding: 0 1.4rem; }
.scroll:focus-visible { outline: 2px solid var(--first); outline-offset: -2px; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { text-align: left; padding: .5rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--muted); font-weight: 500; font-size: .86rem; white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; }
tr:last-child > * { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
.left-out > * { color: var(--muted); }
.prose { color: var(--muted); font-size: .88rem; min-width: 9rem; overflow-wrap: anywhere; }
.explained > * { border-bottom: 0; padding-bottom: .1rem; }
.why td { padding: .1rem 0 .6rem; color: var(--muted); font-size: .88rem; }
.why div { position: sticky; left: 0; max-width: min(46rem, calc(100vw - 4rem)); }
.badge { display: inline-block; border-radius: 99px; padding: 0 .6rem; font-size: .8rem; line-height: 1.5;
  font-weight: 600; white-space: nowrap; border: 1px solid currentColor; }
.good { color: var(--good); } .bad { color: var(--bad); }
.charts { display: grid; gap: 1.2rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
figure { margin: .9rem 0 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif !important; }
figcaption { margin-top: .3rem; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: .5rem 0 0;
  color: var(--muted); font-size: .9rem; }
.key span { display: inline-block; width: .72rem; height: .72rem; border-radius: 50%; margin-right: .4rem; }
.facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .35rem 1.4rem;
  margin: .6rem 0 0; }
.facts dt { color: var(--muted); } .facts dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
code, pre { font: .87rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--tint); border-radius: 8px; padding: .9rem 1rem; overflow-x: auto; margin: .6rem 0 0; }
ul.notes { margin: 1rem 0 0; padding-left: 1.2rem; max-width: 46rem; }
details { margin-top: 1rem; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 640px) {
  main { padding: 1.3rem .8rem 3rem; } section { padding: 1rem; }
  .scroll { margin: .6rem -1rem 0; padding: 0 1rem; }
  .facts { grid-template-columns: 1fr; gap: 0; } .facts dd { margin-bottom: .6rem; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
)
