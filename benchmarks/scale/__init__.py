"""A crawl of the Hub's size by machines that come and go, simulated; the product's code decides who runs what."""
