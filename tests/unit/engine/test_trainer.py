from __future__ import annotations

import logging

from fusion_eval.engine.trainer import quiet

LOGGERS = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]


def levels():
    return [logger.level for logger in LOGGERS]


def test_lightning_is_quiet_also_within_itself_and_as_it_was_afterwards():
    before = levels()
    with quiet():
        with quiet():
            pass
        assert levels() == [logging.ERROR] * 2
    assert levels() == before != [logging.ERROR] * 2
