"""What a person does at two consoles: pair, hand off. By keys alone, or with a browser that runs no script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from playwright.async_api import Page, expect

from tests.e2e.kit import PASSWORD, PASSWORD_USER
from tests.pages_world.consoles import Window
from tests.watchdog import HANG_S

TABS_MAX = 80
# A link into the same page leads to a control, and is none itself.
WHERE = """() => {
  const one = document.activeElement;
  if (one.tagName === "A" && one.hash) return "";
  return ["A", "BUTTON", "SUMMARY"].includes(one.tagName) ? one.textContent.trim() : one.id;
}"""

Act = Callable[[Page, str], Awaitable[None]]


async def by_keys(page: Page, name: str) -> None:
    """Go with Tab to the control of this name (a link's or button's text, a field's id), and press Enter.

    A field gets the focus alone.
    """
    for _ in range(TABS_MAX):
        await page.keyboard.press("Tab")
        if await page.evaluate(WHERE) == name:
            break
    else:
        raise AssertionError(f"{name!r} was not reached at {page.url}: {await page.content()}")
    if await page.evaluate("() => ['A', 'BUTTON'].includes(document.activeElement.tagName)"):
        async with page.expect_navigation():
            await page.keyboard.press("Enter")


async def by_clicks(page: Page, name: str) -> None:
    """Click the link or button of this name, or into the field of this id."""
    links = page.get_by_role("link", name=name, exact=True).and_(page.locator('a:not([href*="#"])'))
    control = links.or_(page.get_by_role("button", name=name, exact=True))
    await control.or_(page.locator(f"[id='{name}']")).first.click()


async def pair(act: Act, phone: Window, companion: Window, *, called: str) -> None:
    """Show an invitation, paste it, compare the two numbers, and say yes."""
    await act(companion.page, "Pair")
    await act(companion.page, "Show the QR code")
    text = companion.page.locator("textarea#invitation")
    await expect(companion.page.locator("img.qr")).to_be_visible()
    invitation = await text.input_value()
    assert invitation.startswith("RTR1:")
    await act(phone.page, "Pair")
    await act(phone.page, "invitation")
    await phone.page.keyboard.insert_text(invitation)
    await act(phone.page, "as")
    await phone.page.keyboard.type(called)
    await phone.page.keyboard.press("Enter")
    number = phone.page.locator(".number")
    await expect(number).to_be_visible()
    await expect(companion.page.locator(".number")).to_have_text(await number.inner_text())
    await act(phone.page, "Yes")
    await expect(phone.page.locator(".good")).to_be_visible()
    await expect(companion.page.locator(".good")).to_be_visible()


async def hand_off(act: Act, phone: Window, *, called: str) -> None:
    """Choose a device and hand off to it."""
    await act(phone.page, "Devices")
    await act(phone.page, called)
    await expect(phone.page.locator("h1")).to_have_text(called)
    await act(phone.page, "Hand off")
    await expect(phone.page.locator(".good")).to_be_visible()


async def use_the_lab(person: Window) -> None:
    """Leave something on the lab's pages: a call and its answer, and a handoff between two real agents."""
    page = person.page
    await page.get_by_role("link", name="API", exact=True).first.click()
    await page.locator("main a", has_text="/initiate").first.click()
    await page.locator("[name=username]").fill("otp@contoso.example")
    for press in ("Send", "Relay", "Start a phone and a companion"):
        await by_clicks(page, press)
    await page.locator("#username").select_option(PASSWORD_USER)
    await by_clicks(page, "Sign in")
    await page.locator("input[type=password]").fill(PASSWORD)
    for press in ("Go on", "Pair", "Yes", "Hand off"):
        await by_clicks(page, press)
        if press != "Pair":
            await expect(page.locator(".good").first).to_be_visible(timeout=HANG_S * 1000)
            await by_clicks(page, "Relay")
    await by_clicks(page, "Relay")
    for column in ("phone", "broker", "companion", "provider"):
        await expect(page.locator(f".four-list > li.at-{column}").first).to_be_visible()
