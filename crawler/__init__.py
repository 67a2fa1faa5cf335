"""The crawler: list image-classification repositories, decide which can be probed and why not, fetch files safely."""

from crawler.crawl import crawl
from crawler.decide.explanation import Explanation, Step, explain
from crawler.fetch.fetcher import Fetcher
from crawler.summary import CrawlSummary, funnel

__all__ = ["CrawlSummary", "Explanation", "Fetcher", "Step", "crawl", "explain", "funnel"]
