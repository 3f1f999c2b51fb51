"""Job IDs: RFC 9562 version 7, in the order of time."""

from __future__ import annotations

import uuid

from jobs.ids import is_job_id, new_job_id


def test_the_example_of_the_rfc():
    # RFC 9562 appendix A.6: unix_ts_ms 0x017F22E279B0, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F
    chance = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")

    made = new_job_id(now_ms=0x017F22E279B0, random_bytes=chance)

    assert made == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def test_ids_sort_by_time_and_are_version_7():
    ids = [new_job_id(now_ms=ms) for ms in (1, 2, 1_700_000_000_000, 2_000_000_000_000)]

    assert ids == sorted(ids)
    assert {uuid.UUID(i).version for i in ids} == {7}
    assert all(is_job_id(i) for i in ids)


def test_what_we_did_not_make_is_not_an_id():
    for text in ("", "../etc", "017f22e2-79b0-4cc3-98c4-dc0c0c07398f", "0" * 36):
        assert not is_job_id(text)
