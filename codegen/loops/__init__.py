"""Loops over elements and rows, as short texts in a language of their own.

`ir` is the language, `functions` what it can call, `graph` a loop with types, values numbered and cut into
passes; each further module renders that in one target language (`c`). A plan keeps a loop as text, so that it
can be read where it stands.
"""
