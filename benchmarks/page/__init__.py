"""Load on the page: 50 searchers at once, for a minute."""
