"""How fast the layers are, beside what else a site could use; see README.md here."""
