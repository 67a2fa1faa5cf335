"""Where rows come from: the Hub's listing, page by page, or a snapshot of it."""
