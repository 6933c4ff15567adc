"""How the page looks: light or dark as the reader has it, on a phone, and on paper."""

STYLE = """
:root { color-scheme: light dark;
  --text: #1c1e21; --soft: #5a6068; --line: #d5d8dc; --back: #fff; --tint: #f4f5f7; --link: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6e9; --soft: #a2a9b3; --line: #3a3f46; --back: #16181b; --tint: #212429; --link: #8ab8f0; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 54rem; padding: 2rem 1.25rem 4rem; background: var(--back); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 2rem 0 .25rem; }
p { margin: .5rem 0 1rem; max-width: 42rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1rem; margin: 1.5rem 0 0; }
.facts dt { color: var(--soft); font-size: .875rem; }
.facts dd { margin: 0; font-size: 1.125rem; font-variant-numeric: tabular-nums; }
.pairs div { display: grid; grid-template-columns: minmax(7rem, 11rem) 1fr; gap: 0 1rem; padding: .3rem 0;
  border-bottom: 1px solid var(--line); }
.pairs dt { color: var(--soft); }
.pairs dd { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: 100%; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: baseline; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 400; }
tbody th { min-width: 7rem; }
thead th { color: var(--soft); font-size: .875rem; font-weight: 400; vertical-align: bottom; }
tfoot th, tfoot td { border-bottom: 0; font-weight: 600; }
.n { text-align: right; white-space: nowrap; }
thead .n { white-space: normal; min-width: 4.5rem; }
.group th { padding-top: 1rem; font-weight: 600; }
.narrow { min-width: 14rem; }
.settings { table-layout: fixed; width: 100%; }
.settings thead th:nth-child(1) { width: 30%; }
.settings thead th:nth-child(2) { width: 25%; }
.settings th, .settings td { font-size: .875rem; }
small, .where { color: var(--soft); font-size: .8125rem; }
.where code { font: inherit; }
code, pre { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre { background: var(--tint); padding: .75rem 1rem; overflow-x: auto; border-radius: 4px; }
code { overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.5rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .9375rem; margin: .5rem 0; max-width: 42rem; }
.note { background: var(--tint); border-left: 3px solid var(--soft); padding: .75rem 1rem; max-width: none; }
summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
@media (max-width: 36rem) {
  body { padding: 1.25rem 1rem 3rem; }
  th, td { padding-right: .6rem; }
  .pairs div { grid-template-columns: 1fr; }
}
@media print { body { max-width: none; } h2, figure { break-inside: avoid; } h2 { break-after: avoid; } }
"""
