"""The pages in a real browser, by keyboard alone; with ``PICTURES`` set some pictures go to ``docs/images``."""

from __future__ import annotations

import os
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.admin.openapi import OPERATIONS
from tests.gateway.admin.admin_server import ALIVE
from tests.real.axe import needs_axe, violations
from tests.real.chromium import AdminServer, Chromium
from tests.real.programs import ROOT, needs, place

#: Those that the documentation shows.
_KEPT = {"sign-in", "settings-light-wide", "settings-dark-phone", "caches-dark-wide", "api-light-wide"}
#: Where each thing that can be pressed is on the page.
_BUTTONS = (
    "JSON.stringify([...document.querySelectorAll('button, .button')].map(e => e.getBoundingClientRect())"
    ".map(r => [r.left, r.top + scrollY, r.width, r.height].map(Math.round)))"
)
#: What is said about each field that is wrong.
_TOLD = "[...document.querySelectorAll('[aria-invalid]')].map(e => e.ariaDescribedByElements[0].innerText)"
_FORM_BUTTON = "e.tagName === 'BUTTON' && e.textContent === '{}'"


@needs("chromium")
class BrowserTests(SynchronousTestCase):
    """People with a keyboard."""

    def setUp(self) -> None:
        self.server = AdminServer(self)
        self.browser = Chromium(self)
        self.browser.look()

    def sign_in(self, username: str, password: str, page: str = "/settings") -> None:
        """The first field gets the focus by itself."""
        self.browser.go(self.server.url + page)
        self.browser.until_focus("e.tagName === 'INPUT'")
        self.browser.write(username)
        self.browser.press("Tab")
        self.browser.write(password)
        self.browser.loading(lambda: self.browser.press("Enter"))

    def assert_quiet(self) -> None:
        """The policy forbade nothing that a page wanted, no script failed, and no other host was asked."""
        self.assertEqual(self.browser.complaints, [])
        for url in self.browser.visited:
            self.assertTrue(url.startswith((self.server.url + "/", "data:image/svg+xml")), url)

    def test_choose(self) -> None:
        """A user signs in, sees which caches live, chooses one and signs out."""
        browser = self.browser
        self.sign_in("bob", "builder")
        self.assertIn("dead since", browser.text)
        self.assertIn("no answer within 5 s", browser.text)
        self.assertNotIn("Caches", browser.run("document.querySelector('nav').innerText"))
        browser.tab_to("e.type === 'radio'")
        browser.press("ArrowDown", "ArrowDown")
        self.assertIn("region-us", browser.run("document.activeElement.closest('label').innerText"))
        outline = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
        self.assertEqual(browser.run(outline), "solid")
        browser.tab_to(_FORM_BUTTON.format("Save"))
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("You pull through region-us now.", browser.text)
        self.assertIn(
            "region-us", browser.run("document.querySelector(':checked').closest('label').innerText")
        )
        browser.tab_to(_FORM_BUTTON.format("Sign out"))
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("docker login", browser.text)
        self.assert_quiet()

    def test_wrong_password(self) -> None:
        """A wrong password is told, the name stays, and the field for another try has the focus."""
        self.sign_in("bob", "wrong")
        self.assertIn("does not accept", self.browser.run("document.querySelector('[role=alert]').innerText"))
        self.assertEqual(self.browser.run("document.querySelector('#username').value"), "bob")
        self.browser.until_focus("e.id === 'password'")

    def test_add_and_remove(self) -> None:
        """An administrator adds a cache, tests it, and removes it, which takes two steps."""
        browser = self.browser
        self.sign_in("alice", "wonder", "/caches")
        browser.tab_to("e.id === 'name'")
        browser.write("region-eu")
        browser.press("Tab")
        browser.write("https://wrong.example.com")
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("region-eu is added, but it does not answer", browser.text)
        browser.tab_to("e.ariaLabel === 'Test region-eu'")
        browser.loading(lambda: browser.press("Space"))
        self.assertIn("region-eu was asked, but it does not answer", browser.text)
        browser.tab_to("e.ariaLabel === 'Edit region-eu'")
        browser.loading(lambda: browser.press("Enter"))
        browser.tab_to("e.id === 'host'")
        browser.run("document.activeElement.select()")
        browser.write("https://eu.example.com")
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("region-eu is changed, and it answers", browser.text)
        browser.tab_to("e.ariaLabel === 'Remove region-eu'")
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("Chosen by no user", browser.text)
        browser.tab_to(_FORM_BUTTON.format("Remove region-eu"))
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("The cache is removed.", browser.text)
        self.assertNotIn("region-eu", browser.run("document.querySelector('ul.caches').innerText"))
        self.assert_quiet()

    def test_all_faults(self) -> None:
        """
        A form that is wrong says all of it beside the fields, and the first of these has the focus; the button
        is where it was, and so is one of a cache after a test.
        """
        browser = self.browser
        self.sign_in("alice", "wonder", "/caches")
        for width in (360, 1280):
            browser.look(width=width)
            browser.go(f"{self.server.url}/caches")
            before = browser.run(_BUTTONS)
            browser.tab_to("e.id === 'name'")
            browser.write("region-us")
            browser.press("Tab")
            browser.write("us.example.com")
            browser.loading(lambda: browser.press("Enter"))
            browser.until_focus("e.id === 'name' && e.ariaInvalid === 'true'")
            name, host = browser.run(_TOLD)
            self.assertIn("There is a cache called region-us already", name)
            self.assertIn("is not a URL", host)
            self.assertEqual(browser.run(_BUTTONS), before, width)
            browser.go(f"{self.server.url}/caches")
            browser.tab_to("e.ariaLabel === 'Test region-us'")
            browser.loading(lambda: browser.press("Space"))
            self.assertIn("region-us was asked, and it answers", browser.text)
            self.assertEqual(browser.run(_BUTTONS), before, width)

    @needs_axe
    def test_try_it_out(self) -> None:
        """
        The API's documentation works under the strict policy, to the answer of a request. Who is signed in is not
        asked again.
        """
        browser = self.browser
        browser.go(f"{self.server.url}/api")
        self.try_it_out("operations-Caches-list_caches")
        browser.until(lambda: "NOT_AUTHENTICATED" in browser.text, "the answer")
        # Nobody has signed in, which the browser notes once, perhaps after the page has shown it.
        browser.until(lambda: browser.complaints, "the browser's note")
        (note,) = browser.complaints
        self.assertIn("status of 401", note)
        browser.complaints.clear()
        self.sign_in("bob", "builder", "/settings/sign-in?next=/api")
        self.assertTrue(browser.run("location.pathname") == "/api")
        self.try_it_out("operations-Caches-list_caches")
        browser.until(lambda: "7f3c1a52-8f0f-4f5b-9a57-0f6d5e1c2b3a" in browser.text, "the caches")
        for dark in (False, True):
            browser.look(width=1280, dark=dark)
            self.assertEqual(violations(browser), [], dark)
        self.assert_quiet()

    def try_it_out(self, operation: str) -> None:
        """Have a request of the API's documentation sent."""
        browser = self.browser
        for part in (".opblock-summary-control", ".try-out__btn", ".execute"):
            found = f"document.querySelector('#{operation} {part}')"
            browser.until(partial(browser.run, f"!!{found}"), part)
            browser.run(f"{found}.click()")

    def test_without_script(self) -> None:
        """Signing in and choosing take no JavaScript."""
        browser = self.browser
        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        self.sign_in("bob", "builder")
        browser.tab_to("e.type === 'radio'")
        browser.press("ArrowDown")
        browser.tab_to(_FORM_BUTTON.format("Save"))
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("You pull through region-asia now.", browser.text)

    @needs_axe
    def test_looks(self) -> None:
        """On a phone nothing is wider than it; in the dark the paper is dark; axe finds nothing."""
        browser = self.browser
        self.picture("sign-in", "/settings")
        self.sign_in("alice", "wonder")
        self.assertEqual(violations(browser), [])
        for dark in (False, True):
            for phone in (False, True):
                for page in (
                    "settings",
                    "caches",
                    "api",
                    f"caches/{ALIVE.id}/edit",
                    f"caches/{ALIVE.id}/remove",
                ):
                    size = (360, 740) if phone else (1280, 800)
                    browser.look(width=size[0], height=size[1], dark=dark, phone=phone)
                    words = [
                        page.rpartition("/")[2],
                        "dark" if dark else "light",
                        "phone" if phone else "wide",
                    ]
                    self.picture("-".join(words), f"/{page}")
                    self.assertLessEqual(browser.run("document.documentElement.scrollWidth"), size[0], words)
                    paper = browser.run("getComputedStyle(document.body).backgroundColor")
                    self.assertEqual(sum(map(int, paper[4:-1].split(","))) < 200, dark, words)
                    self.assertEqual(violations(browser), [], words)
        self.assert_quiet()

    def picture(self, name: str, page: str) -> None:
        """Load a page and take its picture."""
        is_kept = bool(os.environ.get("PICTURES")) and name in _KEPT
        folder = ROOT / "docs" / "images" if is_kept else place(self)
        self.browser.go(self.server.url + page)
        if page == "/api":
            ready = "document.querySelectorAll('.opblock').length"
            self.browser.until(lambda: self.browser.run(ready) == len(OPERATIONS), "the document")
        self.browser.picture(folder / f"{name}.png", whole=False)
