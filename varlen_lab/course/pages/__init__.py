"""Executed notebooks as pages that open offline: styles, pictures and fonts inside, no script, no request.

nbconvert turns cells into HTML through our own small template (``cells/``), because its stock one loads
require.js and MathJax from a CDN. ``frame.html.j2`` puts a page around that; ``index.html.j2`` shows all
notebooks in a table and below it the outputs of every cell tagged ``walkthrough``. Two things are therefore
not shown: LaTeX stays as it was typed, and of a widget only its text remains.
"""
