"""The commands that ask the running agent over its control socket and show its answer.

The agent decides what a command means. This module turns a command line into a request, finds the answers to the
agent's questions (:mod:`token_relay.cli.prompts`) and shows the result. It reads results leniently, since an agent
may be newer than this program: only ``pending`` (exit code 6), ``message`` and ``action`` have a meaning here, and
everything else is shown as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Literal

from token_relay.cli.client import JSON, JsonObject, control_call, locate
from token_relay.cli.parsing import DONE, PENDING, PERSON, Context, UsageError
from token_relay.cli.prompts import Prompts, Sources, read_argument_from_stdin, read_attributes
from token_relay.cli.render import clean, show, value_text
from token_relay.console.device_words import summary_text
from token_relay.protocol.errors import LocalError, PeerError

SIGN_IN_OPTIONS = (
    *("--username", "--browser", "--no-open", "--password-file", "--otp-file", "--otp-command"),
    *("--mfa-method", "--register"),
)
INVITATION_CHARS_MAX = 1_024  # an invitation has some 200 characters; the limit keeps a wrong file out
INVITATION_LINES_MAX = 8


def call(
    args: argparse.Namespace,
    context: Context,
    command: str,
    command_args: JsonObject | None = None,
    *,
    sources: Sources | None = None,
    silence_s: float | None = None,
) -> JsonObject:
    """Ask the agent of this command line and return its result; progress goes to standard error.

    Raises:
        ClientError: it does not run, or refused; the error carries the exit code.
    """
    answers = Prompts(context, sources or Sources())
    path = locate(_kind(args), context.env, home=args.home, socket_directory=args.socket)
    return control_call(
        path,
        command,
        command_args,
        on_progress=lambda step: _show_progress(context, step),
        on_ask=answers.answer,
        silence_s=silence_s,
    )


def finish(context: Context, result: JsonObject) -> int:
    """Show a result and return its exit code: 6 when the agent goes on with it in the background."""
    show(context, result)
    if result.get("pending") is True:
        context.note("accepted; the agent goes on with it in the background")
        return PENDING
    return DONE


def _confirmed(args: argparse.Namespace, context: Context, command: str, command_args: JsonObject) -> int:
    """Run a command that asks before it takes something away; ``--yes`` answers, also an agent that never asks."""
    sources = Sources(is_confirmed=args.yes)
    return finish(context, call(args, context, command, {**command_args, "yes": args.yes}, sources=sources))


def _kind(args: argparse.Namespace) -> Literal["phone", "companion"]:
    return "phone" if args.group == "phone" else "companion"


def _show_progress(context: Context, step: Mapping[str, object]) -> None:
    if number := step.get("check_number"):
        name = step.get("device_name")
        context.note(f"check number: {check_number_text(number)}" + (f"  ({clean(str(name))})" if name else ""))
        return
    if message := step.get("message"):
        context.note(clean(str(message)))
        return
    context.note("  ".join(f"{clean(key)}: {value_text(key, value)}" for key, value in step.items()))


def check_number_text(number: object) -> str:
    """Write the check number in two groups of three, as people read it aloud."""
    digits = clean(str(number))
    return f"{digits[:3]} {digits[3:]}" if len(digits) == 6 else digits


# -- Both agents -------------------------------------------------------------------------------------------


def status(args: argparse.Namespace, context: Context) -> int:
    """``status``: returns 0 also when a person must act, unless ``--exit-code`` asks for 4 then."""
    result = call(args, context, "status", silence_s=30)
    shown = result
    if not context.as_json and isinstance(counts := result.get("summary"), dict):  # the list has a command of its own
        rest = {key: value for key, value in result.items() if key not in ("summary", "devices")}
        shown = {**rest, "message": summary_text(counts)} if counts.get("devices") else rest
    code = finish(context, shown)
    return PERSON if args.exit_code and result.get("action") else code


def events(args: argparse.Namespace, context: Context) -> int:
    """``events``: people see a device's name where they are told its id otherwise."""
    given = {"device": args.device, "trace": args.trace}
    filters = {name: value for name, value in given.items() if value is not None}
    result = call(args, context, "events", {"limit": args.limit, "after": args.after, **filters}, silence_s=30)
    rows = result.get("events")
    if context.as_json or not isinstance(rows, list):
        return finish(context, result)
    return finish(context, {**result, "events": [_named(row) if isinstance(row, dict) else row for row in rows]})


def _named(row: JsonObject) -> JsonObject:
    rest = {key: value for key, value in row.items() if key != "device_name" and (key, value) != ("generation", 0)}
    return {**rest, "device": row["device_name"]} if row.get("device_name") else rest


# -- Phone -------------------------------------------------------------------------------------------------


def sign_in(args: argparse.Namespace, context: Context) -> int:
    """``phone sign-in``."""
    sources = sign_in_sources(args)
    result = call(args, context, "sign_in", _sign_in_args(args), sources=sources)
    return finish(context, result)


def sign_up(args: argparse.Namespace, context: Context) -> int:
    """``phone sign-up``."""
    command_args = {**_second_factor_args(args), "username": args.username, "with_password": not args.no_password}
    if args.attributes_file is not None:
        command_args["attributes"] = read_attributes(context, args.attributes_file)
    sources = Sources(new_password_file=args.password_file, otp_file=args.otp_file, otp_command=args.otp_command)
    return finish(context, call(args, context, "sign_up", command_args, sources=sources))


def reset_password(args: argparse.Namespace, context: Context) -> int:
    """``phone reset-password``."""
    command_args = {**_second_factor_args(args), "username": args.username}
    sources = Sources(new_password_file=args.new_password_file, otp_file=args.otp_file, otp_command=args.otp_command)
    return finish(context, call(args, context, "reset_password", command_args, sources=sources))


def sign_out(args: argparse.Namespace, context: Context) -> int:
    """``phone sign-out``."""
    return finish(context, call(args, context, "sign_out", {} if args.account is None else {"account": args.account}))


def import_token(args: argparse.Namespace, context: Context) -> int:
    """``phone import``: gives the token to the agent as an answer, never as an argument."""
    sources = Sources(refresh_token_file=args.refresh_token_file)
    return finish(context, call(args, context, "import", sources=sources))


def phone_pair(args: argparse.Namespace, context: Context) -> int:
    """``phone pair``."""
    return finish(
        context, call(args, context, "pair", _pair_args(args, context), sources=Sources(is_confirmed=args.yes))
    )


def _pair_args(args: argparse.Namespace, context: Context) -> JsonObject:
    invitation = " ".join(args.invitation)  # in several words: pasted with blanks or line breaks
    if invitation == "-":
        invitation = _invitation_from_stdin(context)
    if len(invitation) > INVITATION_CHARS_MAX:
        message = f"an invitation has at most {INVITATION_CHARS_MAX} characters"
        raise LocalError(message, hint="token-relay companion pair shows one")
    given = {"invitation": invitation or None, "as": args.name}
    return {"yes": args.yes, **{key: value for key, value in given.items() if value is not None}}


def _invitation_from_stdin(context: Context) -> str:
    """Return the first lines of standard input that hold an invitation: it may be broken, with words around it."""
    from token_relay.protocol.pairing import Invitation  # imports pydantic, which no other command line needs

    text = read_argument_from_stdin(context, "invitation")
    for _ in range(INVITATION_LINES_MAX):
        try:
            Invitation.from_text(text)
            break
        except PeerError:
            try:
                text += "\n" + read_argument_from_stdin(context, "invitation")
            except LocalError:
                break  # the agent says what is wrong with it
    return text.strip()


def rename(args: argparse.Namespace, context: Context) -> int:
    """``phone rename``."""
    return finish(context, call(args, context, "rename", {"device": args.device, "name": args.name}))


def handoff(
    args: argparse.Namespace, context: Context, command: str = "handoff", more: JsonObject | None = None
) -> int:
    """``phone handoff``: returns 0 once the companion has said that the grant is on its disk."""
    sources = sign_in_sources(args)
    if args.username is None and (args.mfa_method or args.register):
        raise UsageError("--mfa-method and --register need --username")
    command_args: JsonObject = {"device": args.device, "wait_s": args.wait, **(more or {})}
    given = [name for name in SIGN_IN_OPTIONS if getattr(args, name.strip("-").replace("-", "_"))]
    optional: dict[str, JSON] = {
        "strategy": args.strategy,
        "scope": args.scope,
        "lease_days": args.lease_days,
        "account": args.account,
        "sign_in_options": [*given] or None,
    }
    command_args.update({key: value for key, value in optional.items() if value is not None})
    if args.username is not None or args.browser:
        command_args["sign_in"] = _sign_in_args(args)
    return finish(context, call(args, context, command, command_args, sources=sources))


def replace(args: argparse.Namespace, context: Context) -> int:
    """``phone replace``: returns 6 while the new companion has no grant yet, or the old one still has its own."""
    return handoff(args, context, "replace", _pair_args(args, context))


def cancel(args: argparse.Namespace, context: Context) -> int:
    """``phone cancel``."""
    return finish(context, call(args, context, "cancel", {"device": args.device}))


def revoke(args: argparse.Namespace, context: Context) -> int:
    """``phone revoke``."""
    command_args: JsonObject = {"device": args.device, "lost": args.lost, "wait_s": args.wait}
    return _confirmed(args, context, "revoke", command_args)


def unpair(args: argparse.Namespace, context: Context) -> int:
    """``phone unpair``."""
    return _confirmed(args, context, "unpair", {"device": args.device})


def forget(args: argparse.Namespace, context: Context) -> int:
    """``phone forget``."""
    return _confirmed(args, context, "forget", {"device": args.device})


def _sign_in_args(args: argparse.Namespace) -> JsonObject:
    if args.browser:
        return {"method": "browser", "open": not args.no_open}
    return {"method": "native", "username": args.username, **_second_factor_args(args)}


def _second_factor_args(args: argparse.Namespace) -> JsonObject:
    given = {"mfa_method": args.mfa_method, "contact": args.register}
    return {name: value for name, value in given.items() if value is not None}


def sign_in_sources(args: argparse.Namespace) -> Sources:
    """Return where the answers of a sign-in come from. Raises UsageError: the options do not fit together."""
    if args.no_open and not args.browser:
        raise UsageError("--no-open needs --browser")
    if args.browser and (args.password_file or args.otp_file or args.otp_command):
        raise UsageError("with --browser the secrets are typed there: no --password-file, --otp-file, --otp-command")
    if args.browser and (args.mfa_method or args.register):
        raise UsageError("with --browser a second factor is asked for there: no --mfa-method, --register")
    return Sources(
        password_file=args.password_file,
        otp_file=args.otp_file,
        otp_command=args.otp_command,
        may_open_browser=not args.no_open,
    )


# -- Companion ---------------------------------------------------------------------------------------------


def metrics(args: argparse.Namespace, context: Context) -> int:
    """``companion metrics`` and ``phone metrics``: prints the text as it is, or in an object with ``--json``."""
    result = call(args, context, "metrics")
    if context.as_json:
        return finish(context, result)
    context.out(str(result.get("text", "")).rstrip("\n"))
    return DONE


def adopt(args: argparse.Namespace, context: Context) -> int:
    """``companion adopt`` and ``phone adopt``."""
    return finish(context, call(args, context, "adopt"))


def companion_forget(args: argparse.Namespace, context: Context) -> int:
    """``companion forget``."""
    if args.phone is not None:  # a command of its own: an agent that does not know it must not forget everything
        return _confirmed(args, context, "forget_phone", {"phone": args.phone})
    return _confirmed(args, context, "forget", {"pairing": args.pairing})


def companion_rename(args: argparse.Namespace, context: Context) -> int:
    """``companion rename``."""
    return finish(context, call(args, context, "rename", {"name": args.name}))


def companion_primary(args: argparse.Namespace, context: Context) -> int:
    """``companion primary``."""
    return finish(context, call(args, context, "primary", {"phone": args.phone}))
