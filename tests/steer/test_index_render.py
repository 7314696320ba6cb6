"""Text is rendered byte for byte, whatever the tokenizer and wherever characters are cut."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from steer.index.render import Renderer
from tests.conftest import byte_tokenizer, folder_or_skip

FAMILY, FLAG = "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308"
PARTS = [FAMILY, FLAG, "plain words", " two  spaces ", "\n\n", "\t", "naïve café", "e\u0301a\u0308", "漢字かな交じり"]
PARTS += [
    "한국어",
    "हिन्दी",
    "\u202eturned",
    "\U0001f937\U0001f3fd\u200d♀️",
    "0123",
    "<0x41>",
    "'\"</script>",
    "\u00a0",
    "ﬁ",
]


def texts(count=60, seed=0):
    draw = random.Random(seed)
    for _ in range(count):
        pieces = [draw.choice(PARTS) for _ in range(draw.randint(1, 6))]
        pieces.append(
            "".join(
                chr(draw.choice([*range(33, 127), *range(0x400, 0x450), *range(0x1F600, 0x1F640)])) for _ in range(5)
            )
        )
        draw.shuffle(pieces)
        yield "".join(pieces)


def fast(tokenizer):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def byte_level():
    """Byte-level BPE with merges, so that tokens hold parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(list(texts(30, seed=1)), trainer)
    return fast(tokenizer)


def sentence_piece():
    """BPE as SentencePiece has it: marks for spaces, and bytes for what no token covers."""
    words = [*"abcdefghijklmnopqrstuvwxyz ,.'", "▁", "▁w", "or", "ds", "é", "漢"]
    tokens = dict.fromkeys(["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [("▁", "w"), ("o", "r"), ("d", "s")]
    bpe = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return fast(tokenizer)


def word_level():
    words = ["<unk>", "<s>", "plain", "words", "café", "漢字", "👩‍👩‍👧‍👦", "naïve"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fast(tokenizer)


def checked(renderer, ids, text):
    assert b"".join(renderer.bytes_of(ids)) == text.encode()
    assert renderer.text(ids) == text
    pieces = renderer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


@pytest.mark.parametrize("seed", range(3))
def test_byte_level_text_comes_out_as_it_went_in(seed):
    for tokenizer in (byte_level(), byte_tokenizer()):
        renderer = Renderer.of(tokenizer)
        for text in texts(40, seed):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            checked(renderer, ids, text)
            assert renderer.text(ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("seed", range(3))
def test_sentence_piece_text_comes_out_with_the_space_that_was_put_before_it(seed):
    tokenizer = sentence_piece()
    renderer = Renderer.of(tokenizer)
    for text in texts(40, seed):
        text = text.replace("<0x41>", "")  # as a token's own name it stands for a byte
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        checked(renderer, ids, f" {text}")


def test_words_are_joined_by_spaces_as_the_tokenizer_does():
    tokenizer = word_level()
    renderer = Renderer.of(tokenizer)
    draw = random.Random(0)
    for _ in range(40):
        ids = [draw.randrange(2, 8) for _ in range(draw.randint(1, 9))]
        text = " ".join(tokenizer.convert_ids_to_tokens(ids))
        checked(renderer, ids, text)
        assert text == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_word_pieces_are_joined_where_they_continue():
    words = {word: i for i, word in enumerate(["<unk>", "play", "##ing", "##s", "café"])}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="<unk>"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    renderer = Renderer.of(fast(tokenizer))
    checked(renderer, [1, 2, 4, 3, 1], "playing cafés play")


def test_an_unknown_kind_is_decoded_piece_by_piece():
    tokenizer = Tokenizer(models.BPE(vocab={"a</w>": 0, "b": 1, "<unk>": 2}, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    made = fast(tokenizer)
    renderer = Renderer.of(made)
    assert renderer.joining == "decoded"
    assert "".join(renderer.pieces([1, 0, 1, 0])) == made.decode([1, 0, 1, 0])


def test_the_models_at_hand_are_rendered_as_their_tokenizers_decode(embedded):
    stories = AutoTokenizer.from_pretrained(folder_or_skip("models") / "stories260K" / "hf")
    for tokenizer, space in ((embedded.tokenizer, ""), (stories, " ")):
        renderer = Renderer.of(tokenizer)
        for text in texts(30, seed=5):
            text = text.replace("<0x41>", "")
            checked(renderer, tokenizer(text, add_special_tokens=False)["input_ids"], space + text)


def test_special_tokens_are_shown_and_ids_of_no_token_are_nothing(embedded):
    renderer = Renderer.of(embedded.tokenizer)
    special = embedded.tokenizer.convert_tokens_to_ids("<|user|>")
    assert renderer.text([special]) == "<|user|>"
    assert renderer.text([len(embedded.tokenizer) + 50]) == ""


def test_a_character_cut_off_at_the_end_is_shown_as_such():
    tokenizer = byte_tokenizer()
    renderer = Renderer.of(tokenizer)
    ids = tokenizer("a🦜", add_special_tokens=False)["input_ids"]
    assert renderer.pieces(ids) == ["a", "", "", "", "🦜"]
    assert "".join(renderer.pieces(ids[:3])) == "a\ufffd"
    assert len(renderer.pieces(ids[:3])) == 3


@pytest.mark.parametrize("make", [byte_level, sentence_piece, word_level])
def test_a_table_of_bytes_renders_as_the_tokenizer_does(make):
    tokenizer = make()
    renderer = Renderer.of(tokenizer)
    stored = Renderer.of_table(*renderer.table(len(tokenizer)), renderer.joining)
    for text in texts(20, seed=2):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert stored.bytes_of(ids) == renderer.bytes_of(ids)
    assert stored.token_bytes(len(tokenizer) + 1) == b""
