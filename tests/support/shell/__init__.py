"""A shell for the commands of the documents, forked where fairseq is imported already."""
