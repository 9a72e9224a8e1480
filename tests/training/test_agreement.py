import torch
import torch.distributed as dist

from athanor.training.agreement import Agreement


def test_all_that_ask_at_a_moment_share_one_message(monkeypatch):
    sent = []

    def all_reduce(answers, operation, group):
        sent.append(answers.tolist())
        assert answers.dtype == torch.int64  # on all processes, or gloo aborts
        answers[1] = 15  # another process has received a signal

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    agreement = Agreement()
    agreement.sources |= {"control": lambda: True, "save": lambda: False}
    agreement.alone = False
    for moment in (0, 0), (0, 1), "at the end":
        assert agreement.ask("control", moment) == 1
        assert agreement.ask("save", moment) == 15
    assert sent == [[1, 0]] * 3


def test_a_process_that_is_alone_sends_nothing_and_asks_for_what_it_is_asked():
    agreement, asked = Agreement(), []
    agreement.sources |= {"control": lambda: asked.append("control") or 0, "save": lambda: asked.append("save") or 2}
    assert [agreement.ask("save", 0), agreement.ask("save", 0), agreement.ask("control", 0)] == [2, 2, 0]
    assert asked == ["save", "save", "control"]
    assert agreement.from_main("this") == "this"
