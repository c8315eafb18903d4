"""A pytest plugin for tornado's suite: its own runner silences the log of requests, and the tests count on that."""

import logging

logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
