"""The pages in a real browser, by keyboard alone; with ``PICTURES`` set some pictures go to ``docs/images``."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.admin.openapi import OPERATIONS
from tests.real.axe import needs_axe, violations
from tests.real.chromium import AdminServer, Chromium
from tests.real.programs import ROOT, needs, place

#: Those that the documentation shows.
_KEPT = {"sign-in", "settings-light-wide", "settings-dark-phone", "caches-dark-wide", "api-light-wide"}
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
        browser.tab_to("e.ariaLabel === 'Remove region-eu'")
        browser.press("Enter")
        browser.tab_to(_FORM_BUTTON.format("Remove region-eu"))
        browser.loading(lambda: browser.press("Enter"))
        self.assertIn("The cache is removed.", browser.text)
        self.assertNotIn("region-eu", browser.run("document.querySelector('ul.caches').innerText"))
        self.assert_quiet()

    def test_try_it_out(self) -> None:
        """The API's documentation works under the strict policy, to the answer of a request."""
        browser = self.browser
        browser.go(f"{self.server.url}/api")
        browser.until(
            lambda: browser.run("document.querySelectorAll('.opblock').length") == len(OPERATIONS),
            "the document",
        )
        click = "(s => { const e = document.querySelector(s); e.click(); return true; })"
        browser.run(f"{click}('.opblock .opblock-summary-control')")
        browser.until(lambda: browser.run("!!document.querySelector('.try-out__btn')"), "the button")
        browser.run(f"{click}('.try-out__btn')")
        browser.until(lambda: browser.run("!!document.querySelector('.execute')"), "the other button")
        browser.run(f"{click}('.execute')")
        browser.until(lambda: "NOT_AUTHENTICATED" in browser.text, "the answer")
        # Nobody has authorized anything: it is the 401 that the browser notes.
        complaints = [said for said in browser.complaints if "status of 401" not in said]
        self.assertEqual(complaints, [])
        browser.complaints.clear()
        self.assert_quiet()

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
        for dark in (False, True):
            for phone in (False, True):
                for page in ("settings", "caches", "api"):
                    size = (360, 740) if phone else (900, 640)
                    browser.look(width=size[0], height=size[1], dark=dark, phone=phone)
                    words = [page, "dark" if dark else "light", "phone" if phone else "wide"]
                    self.picture("-".join(words), f"/{page}")
                    self.assertLessEqual(browser.run("document.documentElement.scrollWidth"), size[0], words)
                    paper = browser.run("getComputedStyle(document.body).backgroundColor")
                    self.assertEqual(sum(map(int, paper[4:-1].split(","))) < 200, dark, words)
                    if page != "api":
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
