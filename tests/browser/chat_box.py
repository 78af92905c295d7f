"""A chat on a page, for tests: ask it, click on it, read what it shows."""

from __future__ import annotations


class ChatBox:
    """One chat on the page."""

    def __init__(self, lab, number):
        self.lab = lab
        self.cell = lab.page.locator(".jp-Cell").nth(number)
        self.root = self.cell.locator(".llmapi-kit-chat, .llmapi-kit-plain-chat")
        self.input = self.root.get_by_role("textbox", name="Message")
        self.status = self.root.get_by_role("status")

    def button(self, name):
        return self.root.get_by_role("button", name=name, exact=True)

    def answers(self):
        return self.root.locator(".lk-assistant > .lk-body")

    def ask(self, text):
        self.input.fill(text)
        self.input.press("Enter")

    def wait_for_answers(self, number):
        """Until so many answers are complete."""
        done = self.root.locator(".lk-assistant:not(.lk-streaming)")
        done.nth(number - 1).wait_for()
        self.button("Send").wait_for()
