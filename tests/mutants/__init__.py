"""Known mistakes, put back one at a time: the tests must notice each of them.

`python -m tests.mutants` copies the tree to a temporary directory, applies one
mutant of `table` after the other, and runs the tests that it names.
"""
