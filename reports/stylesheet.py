"""The page's CSS: readable on screen and on paper, in light and in dark."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f27; --soft: #596273; --line: #e1e5eb; --panel: #f6f7f9;
  --accent: #0b5cad; --good: #0f7a55; --good-panel: #eefaf4; --bad: #b42318; --bad-panel: #fef3f2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12151b; --ink: #e8ebf0; --soft: #9aa4b5; --line: #2a303b; --panel: #1a1f28;
    --accent: #6cb2f5; --good: #52c795; --good-panel: #11261d; --bad: #f79086; --bad-panel: #2b1614;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 58rem; padding: 2.5rem 1.25rem 4rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .7rem; }
p { margin: .5rem 0; }
.soft { color: var(--soft); }
.note { color: var(--soft); font-size: .9rem; }
.state { color: var(--bad); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem;
  margin: 1.6rem 0; }
.tile { background: var(--panel); border-radius: 10px; padding: .9rem 1.1rem; }
.tile .value { display: block; font-size: 1.75rem; font-weight: 650; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile:first-child .value { color: var(--accent); }
.tile .name, .tile .more { display: block; color: var(--soft); font-size: .88rem; }
.box { border: 1px solid var(--good); border-left-width: 6px; background: var(--good-panel);
  border-radius: 8px; padding: 1rem 1.3rem; margin: 1.6rem 0; }
.box.bad { border-color: var(--bad); background: var(--bad-panel); }
.box h2 { margin: 0 0 .4rem; font-size: 1rem; color: var(--good); }
.box.bad h2 { color: var(--bad); }
.box .sentence { font-size: 1.12rem; }
.scroll { overflow: auto; max-height: 44rem; }
table { border-collapse: collapse; width: 100%; font-size: .93rem;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85rem;
  border-bottom: 2px solid var(--line); position: sticky; top: 0; background: var(--paper);
  vertical-align: bottom; }
th, td { padding: .42rem .7rem .42rem 0; }
td { border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: break-word; }
.n { text-align: right; white-space: nowrap; padding-left: .7rem; padding-right: .3rem; }
tr.federated td { font-weight: 650; color: var(--accent); }
tr.before td, tr.pooled td { color: var(--soft); }
.bar { display: inline-block; height: .62em; border-radius: 2px; background: currentColor;
  opacity: .75; }
.track { display: inline-block; width: clamp(3rem, 14vw, 9rem); margin-right: .6rem; }
figure { margin: 1.2rem 0; }
img { display: block; width: 100%; height: auto; border-radius: 8px; background: #fff;
  border: 1px solid var(--line); }
pre { background: var(--panel); border-radius: 8px; padding: 1rem; overflow: auto;
  font-size: .85rem; line-height: 1.5; }
code, .hash { font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace;
  font-size: .87em; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  .scroll { max-height: none; overflow: visible; }
  .tile, .box, figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""
