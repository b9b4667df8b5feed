"""The layers of keys, against libsodium's own BLAKE2b and SecretBox (the code uses hashlib's and the bindings)."""

from __future__ import annotations

import nacl.hash
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.encoding import RawEncoder
from nacl.secret import SecretBox

from token_relay.protocol.secret import PrivateKey, RefreshToken
from token_relay.vault.sealing import cell_label, check_of, kek_of, open_cell, seal_cell, unwrap, wrap

KEY = PrivateKey(bytes(range(32)))
DATA_KEY = PrivateKey(b"d" * 32)
NONCE = bytes(range(24))
SALT = b"s" * 16


def blake2b(data: bytes, *, key: bytes = b"", person: bytes, salt: bytes = b"") -> bytes:
    return nacl.hash.blake2b(data, digest_size=32, key=key, salt=salt, person=person, encoder=RawEncoder)


def test_a_place_is_table_key_and_column_parted_by_nul() -> None:
    assert cell_label("grants", ("g1",), "refresh_token") == b'grants\0["g1"]\0refresh_token'
    assert cell_label("mixed", ("p", 7), "c") == b'mixed\0["p",7]\0c'
    assert cell_label("t", ('é"\0',), "c") == b't\0["\\u00e9\\"\\u0000"]\0c'


@given(
    st.lists(st.tuples(st.sampled_from("tu"), st.lists(st.text() | st.integers(), max_size=3), st.sampled_from("cd")))
)
def test_no_two_places_spell_alike(places: list[tuple[str, list[str | int], str]]) -> None:
    different = {(table, tuple(map(repr, key)), column) for table, key, column in places}
    assert len({cell_label(table, tuple(key), column) for table, key, column in places}) == len(different)


def test_the_kek_is_blake2b_of_the_vault_key_with_the_salt() -> None:
    assert kek_of(KEY, SALT).reveal() == blake2b(b"", key=KEY.reveal(), person=b"rtr1-vkek", salt=SALT)


def test_a_cell_is_a_secret_box_under_a_key_of_its_place() -> None:
    place = b'grants\0["g1"]\0refresh_token'
    sealed = seal_cell(RefreshToken("tökén"), data_key=DATA_KEY, place=place, nonce=NONCE)
    cell_key = blake2b(place, key=DATA_KEY.reveal(), person=b"rtr1-vrow")
    assert sealed[:24] == NONCE
    assert SecretBox(cell_key).decrypt(sealed) == "tökén".encode()
    assert open_cell(sealed, data_key=DATA_KEY, place=place) == "tökén".encode()


def test_a_wrapped_key_is_a_secret_box_under_a_key_of_its_name() -> None:
    wrapped = wrap(DATA_KEY, kek=KEY, name="g1", nonce=NONCE)
    assert len(wrapped) == 72
    assert SecretBox(blake2b(b"g1", key=KEY.reveal(), person=b"rtr1-vwrp")).decrypt(wrapped) == DATA_KEY.reveal()
    assert unwrap(wrapped, kek=KEY, name="g1") == DATA_KEY
    assert unwrap(wrapped, kek=KEY, name="g2") is None
    assert unwrap(wrapped, kek=DATA_KEY, name="g1") is None


@given(st.data())
def test_a_cell_changed_anywhere_or_cut_does_not_open(data: st.DataObject) -> None:
    sealed = bytearray(seal_cell(RefreshToken("token"), data_key=DATA_KEY, place=b"p", nonce=NONCE))
    if data.draw(st.booleans()):
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
    assert open_cell(bytes(sealed), data_key=DATA_KEY, place=b"p") is None


def test_a_nonce_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="24 bytes"):
        seal_cell(KEY, data_key=DATA_KEY, place=b"p", nonce=b"short")


def test_the_check_differs_with_each_of_its_parts() -> None:
    first = check_of(schema_version=1, salt=SALT, wrapped=b"w")
    assert first == blake2b(b"\0\0\0\1" + SALT + b"w", person=b"rtr1-vchk")
    assert len({first, check_of(schema_version=2, salt=SALT, wrapped=b"w")}) == 2
