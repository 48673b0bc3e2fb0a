"""The checks of the lessons' puzzles, a file an idea: a reader's code in, a ``Verdict`` out that names the mistake."""
