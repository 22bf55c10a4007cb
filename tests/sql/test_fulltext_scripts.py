"""Words of every script are found in their sentences, however their letters are composed."""

# ruff: noqa: RUF001 - full-width punctuation is what such texts have

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.doctor import check, repair

# A sentence, words in it, and words that are not in it.
SENTENCES: dict[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "Japanese": (
        "データベースの接続が失敗したため再試行した。",
        ["接続", "失敗", "データ", "再試行", "が"],
        ["続接", "成功"],
    ),
    "Chinese": ("数据库连接失败，我们重新启动了服务器。", ["数据库", "连接", "服务器", "我"], ["库数", "成功"]),
    "Chinese, traditional": ("資料庫連線逾時，請重新啟動伺服器", ["資料庫", "伺服器", "連線"], ["庫資"]),
    "Thai": ("การเชื่อมต่อฐานข้อมูลล้มเหลวที่เซิร์ฟเวอร์", ["ฐานข้อมูล", "ล้มเหลว", "เซิร์ฟเวอร์"], ["ฐานขอมูล", "สำเร็จ"]),
    "Lao": ("ການເຊື່ອມຕໍ່ຖານຂໍ້ມູນລົ້ມເຫຼວ", ["ຖານຂໍ້ມູນ", "ລົ້ມເຫຼວ"], ["ຖານຂ້ມູນ"]),
    "Khmer": ("ការតភ្ជាប់មូលដ្ឋានទិន្នន័យបានបរាជ័យ", ["មូលដ្ឋាន", "ទិន្នន័យ", "បរាជ័យ"], ["ជោគជ័យ"]),
    "Burmese": ("ဒေတာဘေ့စ်ချိတ်ဆက်မှုမအောင်မြင်ပါ", ["ဒေတာဘေ့စ်", "ချိတ်ဆက်", "မှု"], ["အောင်ပွဲ"]),
    "mixed": (
        "Pythonでサーバーを再起動、ＡＰＩ呼び出し v2",
        ["python", "サーバー", "API", "再起動", "ﾊﾞｰ", "v2"],
        ["pythona"],
    ),
    "a rare ideograph": ("漢字𠮟る人", ["𠮟る", "漢字"], ["𠮟人"]),
    "Hindi": ("डेटाबेस कनेक्शन विफल हो गया", ["कनेक्शन", "विफल", "डेटा*"], ["कनेक्शीन"]),
    "Arabic": ("فَشِلَ الاتصال بقاعدة البيانات", ["فشل", "البيانات", "بقاعـدة"], ["نجح"]),
    "French": ("open école, déjà vu", ["école", "ecole", "deja"], ["ecol3"]),
    "Vietnamese": ("kết nối thất bại", ["kết", "thất bại", "ket noi"], ["ketnoi"]),
    "Korean": ("데이터베이스 연결이 실패했다", ["데이터베이스", "연결*", "실패했다"], ["성공"]),
    "signs": ("Acme™ runs ⚠️ hot at 20℃ 1️⃣", ["acme", '"runs hot"', "20", "1"], ["tm"]),
}
FORMS = ("NFC", "NFD")


@pytest.fixture(params=["memory", "server"])
def target(request: pytest.FixtureRequest) -> str | ms.Settings:
    return ":memory:" if request.param == "memory" else request.getfixturevalue("server_target")


def _episode(text: str) -> ms.Episode:
    return ms.Episode(task_description=text)


WRITES: dict[str, Callable[[ms.MemoryStorage, str], UUID]] = {
    "save": lambda m, text: m.episodes.save(_episode(text)).id,
    "save of an update": lambda m, text: (
        m.episodes.save(m.episodes.save(_episode("before")).model_copy(update={"task_description": text})).id
    ),
    "save_many": lambda m, text: m.episodes.save_many([_episode("plain"), _episode(text), _episode("plain")])[1].id,
    "import_many": lambda m, text: _imported(m, _episode(text)),
    "a step": lambda m, text: m.episodes.save(_with_steps(ms.Step(tool="t", action=text))).id,
    "a step's output": lambda m, text: m.episodes.save(_with_steps(_output(text))).id,
    "a step's parameters": lambda m, text: m.episodes.save(_with_steps(ms.Step(tool="t", parameters={"a": [text]}))).id,
    "append_step": lambda m, text: _appended(m, _output(text)),
    "complete": lambda m, text: m.episodes.complete(m.episodes.save(_episode("x")).id, ms.Success(verdict=text)).id,
    "a reflection": lambda m, text: _reflected(m, text),
    "a tag": lambda m, text: m.episodes.save(ms.Episode(task_description="x", tags=[text[:100], "zz"])).id,
}


def _imported(memory: ms.MemoryStorage, episode: ms.Episode) -> UUID:
    memory.episodes.import_many([episode])
    return episode.id


def _output(text: str) -> ms.Step:
    return ms.Step(tool="t", result=ms.StepOk(output=text))


def _with_steps(*steps: ms.Step) -> ms.Episode:
    return ms.Episode(task_description="x", steps=[ms.Step(tool="first"), *steps])


def _appended(memory: ms.MemoryStorage, step: ms.Step) -> UUID:
    episode = memory.episodes.save(_episode("x"))
    memory.episodes.append_step(episode.id, step)
    return episode.id


def _reflected(memory: ms.MemoryStorage, text: str) -> UUID:
    episode = memory.episodes.save(_episode("x"))
    return memory.episodes.complete(episode.id, ms.Success(verdict="v"), reflection=ms.Reflection(insights=[text])).id


def _found(memory: ms.MemoryStorage, text: str) -> set[UUID]:
    queried = {one.id for one in memory.episodes.query(text=text)}
    assert memory.episodes.count(text=text) == len(queried)
    assert {one.id for one in memory.episodes.iterate(text=text)} == queried
    if not text.endswith("*"):
        assert queried <= {hit.item.id for hit in memory.episodes.search(text, k=100)}
    return queried


@pytest.mark.parametrize(("sentence", "words", "others"), SENTENCES.values(), ids=SENTENCES)
def test_a_word_is_found_in_its_sentence(storage, sentence, words, others):
    ids = {storage.episodes.save(_episode(unicodedata.normalize(form, sentence))).id for form in FORMS}
    composed, decomposed = (unicodedata.normalize(form, sentence) for form in FORMS)
    pattern = storage.patterns.save(ms.Heuristic(condition=composed, action=decomposed))
    for asked in FORMS:
        for word in words:
            assert _found(storage, unicodedata.normalize(asked, word)) == ids, (word, asked)
            if not word.endswith("*"):
                hits = storage.patterns.search(unicodedata.normalize(asked, word))
                assert [hit.item.id for hit in hits] == [pattern.id], (word, asked)
        for word in others:
            assert _found(storage, unicodedata.normalize(asked, word)) == set(), (word, asked)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_way_to_write_makes_words_findable(storage, write):
    text, words, others = SENTENCES["Japanese"]
    wanted = write(storage, unicodedata.normalize("NFD", text))
    assert _found(storage, words[0]) == {wanted}
    assert _found(storage, others[0]) == set()


def test_what_replaces_a_text_takes_its_words_away(storage):
    japanese, chinese = SENTENCES["Japanese"][0], SENTENCES["Chinese"][0]
    episode = storage.episodes.save(_episode(japanese))
    storage.episodes.complete(episode.id, ms.Success(verdict=chinese), reflection=ms.Reflection(insights=["発見"]))
    assert _found(storage, "连接") == _found(storage, "接続") == _found(storage, "発見") == {episode.id}
    done = storage.episodes.complete(episode.id, ms.Failure(reason="plain"))
    assert (_found(storage, "连接"), _found(storage, "発見")) == (set(), {episode.id})
    storage.episodes.save(done.model_copy(update={"task_description": "plain", "reflection": None}))
    assert _found(storage, "接続") == _found(storage, "発見") == set()
    storage.episodes.delete(episode.id)
    assert storage.health_check(deep=True).is_healthy


def test_merged_patterns_are_found_by_the_tags_of_both(storage):
    one = storage.patterns.save(ms.Heuristic(condition="接続", action="a", tags=["再試行", "plain"]))
    other = storage.patterns.save(ms.Heuristic(condition="b", action="b", tags=["サーバー", "plain"]))
    merged = storage.patterns.merge(one.id, other.id)
    for text in ("再試行", "サーバー", "plain", "接続"):
        assert [hit.item.id for hit in storage.patterns.search(text)] == [merged.id], text


@pytest.mark.parametrize(
    ("text", "asked", "shown"),
    [
        ("データベースの接続が失敗", "接続", "データベースの[接続]が失敗"),
        ("Pythonで書く", "python 書く", "[Python]で[書く]"),
        (unicodedata.normalize("NFD", "open école"), "école", "open [école]"),
        ("日本語の本", "日本語", "[日本語]の本"),
    ],
)
def test_a_snippet_is_the_text_as_it_is_read(storage, text, asked, shown):
    storage.episodes.save(_episode(text))
    assert [hit.snippet for hit in storage.episodes.search(asked)] == [shown]


def test_an_exact_match_ranks_first(storage):
    parts = [storage.episodes.save(_episode(text)) for text in ("東京の京都", "東京都の人", "京都と東京")]
    assert storage.episodes.search("東京都")[0].item.id == parts[1].id


def test_a_phrase_of_several_words_stands_together(storage):
    storage.episodes.save(_episode("東京 タワー、大阪城"))
    assert [storage.episodes.count(text=text) for text in ('"東京 タワー"', '"タワー 大阪"', '"東京 大阪"')] == [
        1,
        1,
        0,
    ]


@pytest.mark.whole_database
def test_text_in_ascii_has_no_other_spelling(storage):
    storage.episodes.save(ms.Episode(task_description="plain", steps=[_output("plain — “too” → ™ ✓ é")]))
    storage.patterns.save(ms.Heuristic(condition="plain", action="a"))
    with storage.engine.connect() as connection:
        for table in ("episodes", "steps", "patterns"):
            assert connection.exec_driver_sql(f"SELECT words FROM {table}").scalars().all() == [None], table


@pytest.fixture
def written(database) -> list[Any]:
    """A file with text that is spelled otherwise in every place."""
    text = SENTENCES["Japanese"][0]
    with ms.MemoryStorage.open(str(database)) as storage:
        ids = [write(storage, text) for write in WRITES.values()]
        storage.patterns.save(ms.Heuristic(condition=text, action="a", tags=["再試行", "接続"]))
        other = storage.patterns.save(ms.Heuristic(condition="b", action="b", tags=["サーバー"]))
        storage.patterns.merge(
            storage.patterns.save(ms.Heuristic(condition="c", action="c", tags=["ああ"])).id, other.id
        )
    return ids


def test_the_doctor_has_no_findings_after_writes(database, written):
    assert check(ms.Settings(database=str(database))).findings == []


def test_the_doctor_spells_again_what_another_program_changed(database, written):
    with ms.MemoryStorage.open(str(database)) as storage, storage.transaction() as tx:
        change = "UPDATE episodes SET document = json_set(document, '$.task_description', '新しい説明') WHERE seq = 1"
        tx.execute([(change, []), ("UPDATE steps SET words = NULL", []), ("UPDATE patterns SET words = '{}'", [])])
    codes = {finding.code for finding in check(ms.Settings(database=str(database))).findings}
    assert codes == {"words.episodes", "words.steps", "words.patterns"}
    assert repair(ms.Settings(database=str(database))).findings == []
    with ms.MemoryStorage.open(str(database)) as storage:
        assert [one.id for one in storage.episodes.query(text="新しい")] == [written[0]]
        assert len(_found(storage, "接続")) == len(written) - 1
