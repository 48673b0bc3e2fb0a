"""Executed notebooks as pages that open offline: styles, pictures and fonts inside, no request, no script but our own.

    lesson    the page of a notebook: its cells in order, folds that span cells (``folds``), ways to its neighbours
    outputs   an output in the richest form that needs no kernel; ``figures`` with their ``twins`` for dark and narrow
    cleaning  what a notebook wrote, so that it does nothing and asks for nothing (``allowed.toml``, ``pictures``)
    index     the landing page; ``numbers`` on it, ``api`` the pages of the functions
    frame     what stands around every page: its policy, one style sheet, the colours of code

LaTeX stays as it was typed. Of a widget the picture beside it is shown; the mask explorer runs, for it needs no kernel.
"""
