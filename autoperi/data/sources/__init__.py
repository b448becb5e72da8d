"""Where crystals come from: Materials Project, OQMD, COD, any OPTIMADE provider, and the files that people have.

A client (:mod:`~autoperi.data.sources.client`) only fetches answers, :mod:`~autoperi.data.sources.fetch` keeps them
as they came, and :mod:`~autoperi.data.sources.documents` makes rows of a table of them. A file is read by
:mod:`~autoperi.data.sources.files` with the same functions, so that an answer that was saved gives the same rows.
"""
