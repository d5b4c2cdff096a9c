"""Corpora: what is in a line (`formats`), files to columns (`read`), and columns kept (`store`).

`config` says which examples, `sources` which files these are, and `splits` reads them all, from files or a store, which
`preparation` makes. `download` fetches what others publish, `generated` makes corpora that need no files.
"""
