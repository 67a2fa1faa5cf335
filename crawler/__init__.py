"""The crawler: list image-classification repositories, decide which can be probed and why not, fetch files safely."""

from crawler.crawl import CrawlSummary, crawl, funnel
from crawler.decide.inspection import Explanation, Step, explain
from crawler.fetcher import Fetcher

__all__ = ["CrawlSummary", "Explanation", "Fetcher", "Step", "crawl", "explain", "funnel"]
