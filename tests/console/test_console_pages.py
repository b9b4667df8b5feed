"""What the pages of a phone and of a companion show and do, without JavaScript, before real agents."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

import pytest

from tests.console.console_kit import Browser, Page, console, element_text
from tests.e2e.kit import OTP_USER, PASSWORD, PASSWORD_USER, World, pair, ready
from tests.watchdog import HANG_S
from token_relay.pages.conversation import OPEN_MAX
from token_relay.pages.visit import STREAMS_MAX
from token_relay.sandbox.marked_tokens import find_marked

pytestmark = pytest.mark.asyncio


def holds_no_secret(page: Page) -> None:
    """Nothing of a token that could be used, and no password, stands in the page."""
    assert not find_marked(page.html.encode()) and PASSWORD not in page.html


async def both_pair(phone: Browser, companion: Browser) -> None:
    """Pair by the pages alone."""
    shown = await companion.press(await companion.get("pair"), "Show the QR code")
    invitation = re.search(r"RTR1:[A-Z0-9]+", shown.text)
    assert invitation is not None, shown.text
    asked = await phone.settled(
        await phone.press(await phone.get("pair"), "Pair", invitation=invitation[0].replace(":", ":\n"))
    )
    number = re.search(r"\b(\d{3} \d{3})\b", asked.text)
    assert number is not None, asked.text
    place = shown.form("Give up").action.partition("talks/")[2].removesuffix("/end")
    told = await companion.until(
        f"talks/{place}/stream", lambda name, data: name == "element" and number[1] in data["html"]
    )
    assert "Both must show this number" in element_text(told["html"])
    assert "Paired with" in (await phone.press(asked, "Yes")).text


async def test_pairing_sign_in_and_hand_off_by_the_pages_alone() -> None:
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        async with console("phone", phone.home, watch.home) as mine, console("companion", watch.home) as theirs:
            assert "No device is paired yet" in (await mine.get()).text
            assert "No phone is paired" in (await theirs.get()).text
            await both_pair(mine, theirs)
            listed = await mine.get()
            assert "1 device: 1 needs you" in listed.text

            account = await mine.get("account")
            assert "Nobody is signed in" in account.text
            asked = await mine.press(account, "Sign in here", username=OTP_USER)
            code = await world.sandbox.code(OTP_USER)
            signed_in = await mine.settled(await mine.press(await mine.settled(asked), "Go on", value=code))
            assert f"Signed in as {OTP_USER}" in signed_in.text and code not in signed_in.html
            assert OTP_USER in (await mine.follow(signed_in, "Go on")).text

            device = await mine.follow(listed, "watch")
            done = await mine.settled(await mine.press(device, "Hand off", lease_days="30"))
            assert "The companion has the grant on its disk" in done.text
            columns = await mine.follow(done, "Go on")
            at = [columns.text.index(words) for words in ("OFFER → companion", "OFFER, for the", "OFFER has come")]
            at += [
                columns.text.index(words) for words in ("ACCEPT →", "TOKEN →", "The grant is on the disk", "STORED →")
            ]
            assert at == sorted(at)
            assert "The lines of both ends" in columns.text
            assert "lease of 30 days" in (await mine.get(f"devices/{watch.device_id}")).text
            assert OTP_USER in (await theirs.get()).text


async def test_every_page_is_there_and_holds_no_secret() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.sign_in(PASSWORD_USER)
        await phone.hand_off(watch, "--account", OTP_USER)
        (handoff,) = await phone.handoffs(watch)
        device = f"devices/{watch.device_id}"
        same = ("", "pair", "tokens", "trouble", "trouble?trace=11111111", f"handoffs/{handoff['handoff_id']}")
        async with console("phone", phone.home, watch.home) as mine, console("companion", watch.home) as theirs:
            for browser, places in (
                (mine, (*same, "account", device, f"{device}/handoff", "?only=needs-me")),
                (theirs, same),
            ):
                for place in places:
                    page = await browser.get(place)
                    assert page.status == 200, (place, page.text)
                    assert page.html.count("<h1>") == 1
                    holds_no_secret(page)
            choice = await mine.get(device)
            assert OTP_USER in choice.text and PASSWORD_USER in choice.text  # whose grant is a choice of two
            assert (await mine.get("devices/aaaaaaaaaaaaaaaaaaaaaaaaaa")).status == 400
            assert (await mine.get("do/revoke")).text.startswith((await mine.get()).text[:20])  # leads to the list
            for browser in (mine, theirs):
                assert (await browser.post("do/nothing")).status == 404
            assert (await theirs.get("do/forget")).status == 200


async def test_each_question_of_a_device_is_a_form_and_no_changes_nothing() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        async with console("phone", phone.home) as mine:
            place = f"devices/{watch.device_id}"

            async def begun(button: str, **typed: str) -> Page:
                return await mine.settled(await mine.press(await mine.get(place), button, **typed))

            renamed = await begun("Rename", name="upstairs")
            assert "Watch is called upstairs from now on" in renamed.text
            assert "upstairs" in (await mine.get()).links

            refused = await mine.settled(await mine.press(await begun("Revoke"), "No"))
            assert "Not confirmed; nothing was changed" in refused.text and "--yes" not in refused.text
            assert (await phone.handoffs(watch))[0]["state"] == "done"

            lost = await mine.settled(await mine.press(await begun("It is lost"), "Yes"))
            assert "Done: this phone gives it no lease" in lost.text and "To do, by an administrator" in lost.text
            assert (await phone.handoffs(watch))[0]["state"] == "gone"

            await watch.stop()
            unpaired = await mine.settled(await mine.press(await begun("Unpair"), "Yes"))
            assert "Unpaired" in unpaired.text and "No device is paired yet" in (await mine.get()).text


async def test_a_device_that_will_never_answer_is_forgotten() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        async with console("phone", phone.home) as mine:
            asked = await mine.settled(await mine.press(await mine.get(f"devices/{watch.device_id}"), "Forget"))
            assert "it is not told" in asked.text
            assert "Forgotten" in (await mine.settled(await mine.press(asked, "Yes"))).text
            assert "No device is paired yet" in (await mine.get()).text


async def test_an_open_handoff_waits_is_watched_and_is_given_up() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await watch.stop()
        async with console("phone", phone.home) as mine:
            place = f"devices/{watch.device_id}"
            begun = await mine.press(await mine.get(place), "Hand off")
            assert begun.text.count("It can be watched in four columns") == 1
            columns = await mine.follow(begun, "It can be watched in four columns")
            assert "OFFER → companion" in columns.text and "OFFER has come" not in columns.text
            assert "token-relay companion events" in columns.text  # where the other end's lines are
            over = await mine.press(begun, "Give up")
            assert "Given up" in over.text  # the page's wait alone: the handoff goes on at the agent
            cancelled = await mine.press(await mine.get(place), "Give up the open handoff")
            assert "Asked the companion to give it up" in (await mine.settled(cancelled)).text


async def test_a_new_companion_takes_the_place_of_an_old_one() -> None:
    async with World() as world:
        phone, old = await ready(world)
        await phone.hand_off(old)
        new = await world.companion("new")
        async with console("phone", phone.home) as mine:
            page = await mine.get(f"devices/{old.device_id}")
            asked = await mine.settled(await mine.press(page, "Replace", invitation=await new.invitation()))
            assert "watch" in asked.text
            done = await mine.settled(await mine.press(asked, "Yes"))
            rows = {row["name"]: row["device_id"] for row in (await phone.control("devices"))["devices"]}
            assert rows == {"watch": new.device_id}, done.text


async def test_the_account_is_changed_by_forms_and_a_wrong_answer_is_said() -> None:
    async with World() as world:
        phone = await world.phone()
        async with console("phone", phone.home) as mine:
            asked = await mine.settled(
                await mine.press(await mine.get("account"), "Sign in here", username=PASSWORD_USER)
            )
            wrong = await mine.settled(await mine.press(asked, "Go on", value="not the password"))
            assert "Go on" in wrong.form("Go on").buttons and "not the password" not in wrong.html
            signed_in = await mine.settled(await mine.press(wrong, "Go on", value=PASSWORD))
            assert f"Signed in as {PASSWORD_USER}" in signed_in.text
            holds_no_secret(signed_in)

            out = await mine.settled(await mine.press(await mine.get("account"), "Sign out"))
            assert f"Signed out of {PASSWORD_USER}" in out.text

            begun = await mine.press(await mine.get("account"), "Sign in with the browser")
            asked = await mine.settled(begun)
            await world.sandbox.fill_in_form(asked.links["Open the sign-in page"], PASSWORD_USER, PASSWORD)
            done = await mine.settled(await mine.press(asked, "I have opened it"))
            assert f"Signed in as {PASSWORD_USER}" in done.text

            made = await mine.settled(
                await mine.press(await mine.get("account"), "Make the account", username="new@contoso.example")
            )
            assert made.forms, made.text
            reset = await mine.settled(
                await mine.press(await mine.get("account"), "Send a code", username=PASSWORD_USER)
            )
            assert reset.forms, reset.text


async def test_a_refresh_token_from_elsewhere_is_asked_for_and_never_shown() -> None:
    async with World("auth0") as world:
        phone = await world.phone()
        token = await world.sandbox.refresh_token_of_an_sdk(PASSWORD_USER, PASSWORD)
        async with console("phone", phone.home) as mine:
            wanted = await mine.settled(await mine.press(await mine.get("account"), "Adopt"))
            adopted = await mine.settled(await mine.press(wanted, "Go on", value=token))
            assert "Adopted, and refreshed once" in adopted.text
            holds_no_secret(adopted)
            tokens = await mine.get("tokens")
            assert tokens.status == 200


async def test_all_that_a_console_may_hold_open_leaves_the_agents_command_line_free() -> None:
    async with World() as world, asyncio.timeout(HANG_S):
        phone = await world.phone()
        async with console("phone", phone.home) as page, contextlib.AsyncExitStack() as stack:
            streams = [page.stream(f"handoffs/{'0' * 32}/stream") for _ in range(STREAMS_MAX)]
            for stream in streams:
                stack.push_async_callback(stream.aclose)  # type: ignore[attr-defined]  # an async generator
                await anext(stream)
            for _ in range(OPEN_MAX):
                asked = await page.post("do/import")
                assert "Give up" in asked.text, asked.text
            assert f"{OPEN_MAX} commands are open" in (await page.post("do/import")).text
            assert (await phone.control("status"))["accounts"] == []
            assert (await page.get("account")).status == 200


async def test_a_companion_is_renamed_and_forgets_a_phone_or_everything() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        tablet = await world.phone("tablet")
        await pair(tablet, watch)
        await phone.hand_off(watch)
        async with console("companion", watch.home, phone.home) as mine:

            async def done(button: str, **typed: str) -> str:
                asked = await mine.settled(await mine.press(await mine.get(), button, **typed))
                return (await mine.settled(await mine.press(asked, "Yes"))).text if "Yes" in asked.text else asked.text

            assert "This device calls itself hall from now on" in await done("Rename", name="hall")
            assert "<h1>hall</h1>" in (await mine.get()).html
            assert "is the primary phone" in await done("Make it primary")
            assert [one["name"] for one in (await watch.status())["phones"] if one["is_primary"]] == ["tablet"]
            assert "Erased 0 grants and 1 pairings" in await done("Forget tablet")
            assert "Erased 1 grants and 0 pairings" in await done("Erase the grants here")
            assert "Erased 0 grants and 1 pairings" in await done("Erase the grants and forget the phones")
            assert "No phone is paired" in (await mine.get()).text


async def test_an_invitation_is_a_picture_that_counts_down_and_ends_with_its_page() -> None:
    async with World() as world:
        watch = await world.companion("watch")
        async with console("companion", watch.home) as mine:
            shown = await mine.press(await mine.get("pair"), "Show the QR code")
            assert "Valid for 9 min" in shown.text or "Valid for 10 min" in shown.text
            found = re.search(r'src="[^"]*/(pair/[0-9a-f]+/qr\.svg\?n=1)"', shown.html)
            assert found is not None
            status, kind, body = await mine.octets(found[1])
            assert (status, kind) == (200, "image/svg+xml") and b"<svg" in body
            await mine.press(shown, "Give up")
            status, kind, body = await mine.octets(found[1])
            assert (status, kind) == (400, "text/html") and b"no invitation is open" in body


async def test_a_number_that_differs_is_refused_and_a_fresh_picture_follows() -> None:
    async with World() as world:
        phone, watch = await asyncio.gather(world.phone(), world.companion("watch"))
        async with console("phone", phone.home) as mine, console("companion", watch.home) as theirs:
            shown = await theirs.press(await theirs.get("pair"), "Show the QR code")
            place = shown.form("Give up").action.partition("talks/")[2].removesuffix("/end")
            invitation = re.search(r"RTR1:[A-Z0-9]+", shown.text)
            assert invitation is not None
            first = await theirs.octets(f"pair/{place}/qr.svg?n=1")
            asked = await mine.settled(await mine.press(await mine.get("pair"), "Pair", invitation=invitation[0]))
            over = await mine.settled(await mine.press(asked, "No"))
            assert over.status == 200 and "Go on" in over.links and not over.forms
            told = await theirs.until(
                f"talks/{place}/stream", lambda name, data: name == "element" and "qr.svg?n=2" in data["html"]
            )
            assert "The one before: " in element_text(told["html"]) and invitation[0] not in told["html"]
            status, kind, body = await theirs.octets(f"pair/{place}/qr.svg?n=2")
            assert (status, kind) == first[:2] == (200, "image/svg+xml") and body != first[2]
            await both_pair(mine, theirs)


async def test_a_person_signs_in_for_one_device_alone() -> None:
    async with World("auth0") as world:
        phone, watch = await ready(world)
        async with console("phone", phone.home, watch.home) as mine:
            device = await mine.get(f"devices/{watch.device_id}")
            asked = await mine.settled(await mine.press(device, "Hand off", strategy="mint", method="browser"))
            await world.sandbox.fill_in_form(asked.links["Open the sign-in page"], PASSWORD_USER, PASSWORD)
            done = await mine.settled(await mine.press(asked, "I have opened it"))
            assert "The companion has the grant on its disk" in done.text
            columns = await mine.follow(done, "Go on")
            assert "TOKEN → companion" in columns.text
            holds_no_secret(columns)


async def test_tokens_in_words_their_difference_and_the_raw_text_only_when_asked() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        async with console("companion", watch.home, phone.home) as mine:
            page = await mine.get("tokens")
            assert page.text.count("who issued it") >= 2  # of both ends
            assert "Between the two devices" in page.text
            forms = [form for form in page.forms if "Refresh, and compare" in form.buttons]
            assert [form.fields["end"] for form in forms] == ["companion", "phone"]
            compared = await mine.send(forms[0].action, **forms[0].fields)
            assert "Before and after the refresh" in compared.text
            holds_no_secret(compared)

            token = await watch.token()
            raw = next(form for form in compared.forms if "Show the raw token" in form.buttons)
            first = await mine.send(raw.action, **raw.fields)
            head, _, signature = token.rpartition(".")
            assert head in first.html and signature not in first.html
            whole = await mine.press(first, "Show the signature too")
            assert token in whole.html
            holds_no_secret(await mine.follow(whole, "Hide it"))

            await phone.sign_in(PASSWORD_USER)
            assert (
                "Several" in (await mine.get("tokens")).text or "several grants fit" in (await mine.get("tokens")).text
            )
            one = await mine.get(f"tokens?account={OTP_USER}")
            assert one.status == 200 and one.text.count("who issued it") >= 2

            await phone.stop()
            alone = await mine.get("tokens")
            assert "Its agent is not on this machine" in alone.text and "who issued it" in alone.text
            (await watch("forget", "--yes")).expect()
            gone = await mine.get("tokens")
            assert "What to do" in gone.text
            for button in ("tokens/refresh", "tokens/raw"):
                refused = await mine.post(button, end="companion")
                assert refused.status == 400, refused.text
                assert (await mine.get(button)).status == 200


async def test_what_went_wrong_has_both_ends_lines_of_one_trace() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await world.sandbox.control("POST", "revoke", {"username": OTP_USER})
        (await watch("token", "--force-refresh", is_permitted=True)).expect(4)
        async with console("phone", phone.home, watch.home) as mine, console("companion", watch.home) as theirs:
            page = await theirs.get("trouble")
            assert "The provider refused to refresh" in page.text or "the provider refused to refresh" in page.text
            place = next(href for text, href in page.links.items() if text.startswith("trace"))
            traced = await theirs.at(place)
            assert "the provider refused to refresh" in traced.text
            assert "token-relay phone events --trace" in traced.text
            trace = place.partition("trace=")[2]
            joined = await mine.get(f"trouble?trace={trace[:8]}")
            assert "Companion: the provider refused to refresh" in joined.text
            assert "The lines of both ends" in joined.text
            assert (await mine.get("trouble?trace=abc")).status == 400


async def test_a_command_to_copy_is_one_command_whatever_the_trace_is() -> None:
    async with World() as world:
        phone = await world.phone()
        async with console("phone", phone.home) as mine:
            page = await mine.get("trouble?trace=12345678%3B%20id")
            assert "token-relay companion events --trace '12345678; id'" in page.text


async def test_an_event_changes_only_its_own_row() -> None:
    async with World() as world:
        phone, _ = await ready(world, "hall")
        car = await world.companion("car")
        await pair(phone, car)
        async with console("phone", phone.home) as mine:
            seen: list[tuple[str, Any]] = []
            is_renamed = False
            async for name, data in mine.stream("stream"):
                if name == "done" and not is_renamed:
                    seen.clear()
                    is_renamed = True
                    await phone.control("rename", device="car", name="cab")
                elif name == "element":
                    seen.append((data["id"], element_text(data["html"])))
                elif is_renamed and seen:
                    break
            changed = {place for place, text in seen if place.startswith("d-")}
            assert changed == {f"d-{car.device_id}"} and any("cab" in text for _, text in seen)


async def test_the_agent_is_killed_under_its_page_and_comes_back() -> None:
    async with World() as world:
        phone = await world.phone()
        async with console("phone", phone.home) as mine:
            states: list[str] = []
            async for name, data in mine.stream("stream"):
                if name == "done" and not states:
                    states.append("well")
                    await phone.kill()
                elif name == "trouble" and states[-1] == "well":
                    states.append("trouble")
                    assert "not running" in data["why"] and "token-relay phone run" in data["hint"], data
                    for place in ("", "pair", "account", "tokens", "trouble"):
                        page = await mine.get(place)
                        if place == "pair":
                            assert page.status == 200
                            continue
                        assert page.status == 503 and "The agent is away" in page.text and "phone run" in page.text
                    refused = await mine.post("tokens/raw")
                    assert refused.status == 400 and "not running" in refused.text
                    failed = await mine.settled(await mine.press(await mine.get("pair"), "Pair", invitation="RTR1:A"))
                    assert "not running" in failed.text
                    back = asyncio.create_task(mine.until("away/stream", lambda name, _: name == "go"))
                    await phone.run()
                    await back
                elif name == "well":
                    break
            assert states == ["well", "trouble"]
            assert (await mine.get()).status == 200


async def test_every_live_page_sends_its_elements_and_what_is_new() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        (handoff,) = await phone.handoffs(watch)
        device, columns = f"devices/{watch.device_id}", f"handoffs/{handoff['handoff_id']}"
        async with console("phone", phone.home, watch.home) as mine, console("companion", watch.home) as theirs:
            for browser, page, element in (
                (mine, "", "summary"),
                (mine, "account", "accounts"),
                (mine, device, "facts"),
                (mine, f"{device}/handoff", "other-end"),
                (mine, columns, "other-end"),
                (mine, "trouble", "other-end"),
                (theirs, "", "state"),
                (theirs, columns, "other-end"),
                (theirs, "trouble", "other-end"),
            ):
                shown = await browser.get(page)
                found = re.search(r'data-stream="[^"]*?/[0-9a-f]{32}/([^"]*)"', shown.html)
                assert found is not None, page
                sent = []
                async for name, data in browser.stream(found[1].replace("&amp;", "&")):
                    if name == "done":
                        break
                    assert name in ("only", "element"), (page, name, data)
                    if name == "only":
                        continue
                    assert f'id="{data["id"]}"' in shown.html, (page, data)
                    sent.append(data["id"])
                assert element in sent and len(sent) == len({*sent})

            new: list[str] = []
            async for name, data in mine.stream(f"{device}/stream"):
                if name == "done" and not new:
                    new.append("asked")
                    await phone.control("rename", device="watch", name="wrist")
                elif new and name == "element" and "called otherwise" in data["html"].lower():
                    break
            assert new == ["asked"]
            await phone.control("revoke", device="wrist", yes=True, wait_s=0)
            await mine.until(f"{columns}/stream", lambda name, data: name == "element" and "REVOKED" in data["html"])
            await theirs.until("stream", lambda name, data: name == "element" and "revoked" in data["html"])
