"""Corpora that change: documents on disk, one writer per corpus, readers that follow."""
