"""The style sheet of the report page: one column, light and dark, from 320 pixels up."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #fff; --ink: #1d1f23; --faint: #5f656e; --line: #dcdad5;
  --drawn: #1c5fb0; --real: #8a8f98;
  --good: #2c7a4b; --middling: #946000; --bad: #b3342d; --unknown: #5f656e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1e2126; --ink: #e9e8e5; --faint: #a2a8b1; --line: #363b43;
    --drawn: #6fb0ff; --real: #8f959e;
    --good: #6cc48f; --middling: #e0a94a; --bad: #f08078; --unknown: #a2a8b1;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .3rem 0 .8rem; max-width: 72ch; overflow-wrap: break-word; }
small, .faint { color: var(--faint); font-weight: 400; }
img { max-width: 100%; height: auto; image-rendering: pixelated; border-radius: 4px; display: block; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .8rem; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .9rem 1rem; margin: 0 0 .8rem; min-width: 0;
}
.cards .card { margin: 0; }
.card h3 { margin-bottom: .4rem; }
.verdict { border-left: 5px solid var(--level); }
.verdict h3 span { color: var(--level); float: right; }
.verdict p { margin: 0; }
.good { --level: var(--good); } .middling { --level: var(--middling); }
.bad { --level: var(--bad); } .unknown { --level: var(--unknown); }
.drawn { --c: var(--drawn); } .real { --c: var(--real); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; background: var(--c); }
.pairs { display: flex; flex-wrap: wrap; gap: .7rem; }
.pair { margin: 0; text-align: center; font-size: .85rem; }
.pair div { display: flex; gap: 2px; }
.pair img { width: 64px; border-radius: 2px; }
.pair.copy figcaption { color: var(--bad); font-weight: 600; }
.figure p { margin: 0 0 .3rem; color: var(--faint); font-size: .92rem; }
.row {
  display: grid; grid-template-columns: 9rem minmax(0, 1fr) 13rem; gap: .7rem;
  align-items: center; font-size: .92rem;
}
.row svg { width: 100%; height: 16px; }
.row b { font-weight: 600; }
.row small { margin-left: .3rem; }
.row line { stroke: var(--c); stroke-width: 3; vector-effect: non-scaling-stroke; opacity: .5; }
.row line.dot { stroke-width: 4; opacity: 1; }
.chart { display: block; width: 100%; max-width: 760px; }
.chart text { fill: var(--faint); font: 13px system-ui, sans-serif; }
.chart .grid { stroke: var(--line); }
.curve { fill: none; stroke: var(--c); stroke-width: 2.5; }
.band { fill: var(--c); opacity: .18; }
.share {
  display: grid; grid-template-columns: minmax(3rem, 9rem) minmax(0, 1fr) 9rem; gap: .7rem;
  align-items: center; font-size: .92rem; overflow-wrap: anywhere;
}
.share b { font-weight: 600; }
.bar { height: 7px; background: var(--c); border-radius: 2px; margin: 1px 0; min-width: 1px; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td {
  text-align: left; font-weight: 400; vertical-align: top;
  padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
}
tr:last-child > * { border: 0; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem .9rem; font-size: .92rem; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .row { grid-template-columns: auto 1fr; gap: 0 .7rem; padding: .2rem 0; }
  .row b { text-align: right; }
  .row svg { grid-column: 1 / -1; grid-row: 2; }
  .row i { display: none; }
  .share { grid-template-columns: 4rem minmax(0, 1fr) 8rem; gap: .4rem; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; }
}
"""
