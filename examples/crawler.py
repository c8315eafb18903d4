"""A crawler with limits: so many pages, so many at once, so long for each, one host.

    python examples/crawler.py http://localhost:8000/ --pages 100 --at-once 10

Without an address it crawls a small site of its own on loopback. Needs the package aiohttp.
"""

import argparse
import asyncio
import contextlib
import html.parser
import urllib.parse

import aiohttp
import aiohttp.web
import velodrome


class Links(html.parser.HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "a" and (target := dict(attributes).get("href")):
            self.found.append(target)


class Crawler:
    def __init__(self, session, *, pages, at_once, seconds):
        self.session = session
        self.pages = pages  # how many may still be asked for
        self.slots = asyncio.Semaphore(at_once)
        self.seconds = seconds
        self.seen = set()
        self.answers = {}  # by address: a status, or what went wrong

    async def crawl(self, start):
        # The group ends when the last of its tasks has: those for links that others find are in it, too.
        async with asyncio.TaskGroup() as self.group:
            self.visit(start)

    def visit(self, address):
        address = urllib.parse.urldefrag(address).url
        if address not in self.seen and self.pages:
            self.seen.add(address)
            self.pages -= 1
            self.group.create_task(self.fetch(address))

    async def fetch(self, address):
        try:
            async with self.slots, asyncio.timeout(self.seconds):
                status, text = await self.get(address)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.answers[address] = type(error).__name__  # one bad page does not end the others
            return
        self.answers[address] = status
        for link in Links(text).found:
            with contextlib.suppress(ValueError):  # what is no address leads nowhere
                target = urllib.parse.urljoin(address, link)
                if urllib.parse.urlsplit(target)[:2] == urllib.parse.urlsplit(address)[:2]:
                    self.visit(target)

    async def get(self, address):
        async with self.session.get(address, allow_redirects=False) as response:
            is_page = response.content_type == "text/html"
            return response.status, await response.text(errors="replace") if is_page else ""


async def crawl_and_print(arguments, address):
    async with aiohttp.ClientSession() as session:
        crawler = Crawler(session, pages=arguments.pages, at_once=arguments.at_once, seconds=arguments.seconds)
        await crawler.crawl(address)
    for address, answer in sorted(crawler.answers.items()):
        print(answer, address)


async def serve_page(request):
    """Page N links to the pages 2N and 2N+1, up to 15; those that are not there make way for two broken links."""
    number = int(request.match_info["number"])
    links = [f"/{child}" for child in (2 * number, 2 * number + 1) if child < 16] or ["/missing", "http://["]
    text = "".join(f'<a href="{link}">on</a>' for link in links)
    return aiohttp.web.Response(text=text, content_type="text/html")


async def crawl_a_site_of_our_own(arguments):
    site = aiohttp.web.Application()
    site.router.add_get(r"/{number:\d+}", serve_page)
    runner = aiohttp.web.AppRunner(site)
    await runner.setup()
    try:
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        await crawl_and_print(arguments, f"http://{host}:{port}/1")
    finally:
        await runner.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", nargs="?")
    parser.add_argument("--pages", type=int, default=100, help="at most so many")
    parser.add_argument("--at-once", type=int, default=10, help="at most so many")
    parser.add_argument("--seconds", type=float, default=10, help="for a page, at most")
    arguments = parser.parse_args()
    if arguments.address:
        velodrome.run(crawl_and_print(arguments, arguments.address))
    else:
        velodrome.run(crawl_a_site_of_our_own(arguments))


if __name__ == "__main__":
    main()
