"""A bundle as a static web page that runs it in the browser, and a session on it in JavaScript (`page/session.js`)."""

from .site import write_site

__all__ = ["write_site"]
