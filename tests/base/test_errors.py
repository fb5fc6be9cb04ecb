"""What a message cites is shown, and not obeyed."""

from __future__ import annotations

import pickle

from cil_spl.base.errors import RequestError


def test_what_a_terminal_would_obey_is_written_out():
    error = RequestError("x.csv: event 5 is 0,\x1b[2J,1\x00\x85\u202e\ud800; run ä:\n  日本\t1")
    assert str(error) == r"x.csv: event 5 is 0,\x1b[2J,1\x00\x85\u202e\ud800; run ä:" + "\n  日本 1"
    assert str(RequestError("key=a\nb: no")) == "key=a\\nb: no"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
