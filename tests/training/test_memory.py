from types import SimpleNamespace

from athanor.training import memory


def test_without_glibc_memory_is_left_as_it_is(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(memory.ctypes, "CDLL", missing)
    memory.keep_freed_memory()


def test_glibc_is_told_to_keep_what_is_freed(monkeypatch):
    told = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *both: told.append(both)))
    memory.keep_freed_memory()
    assert told == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
