import json
import shutil

import gguf
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from components.chat import load_tokenizer, prompt_ids
from components.fetch_base.scratch import CHATML
from components.package_release import package as package_module
from components.package_release.package import EngineMismatch, Golden, package
from components.step_config import InputError
from components.store import tree_files
from serving.engine import open_engine
from serving.engine.weights import load_weights
from serving.release import ServingForm, read_golden, read_release, verify_release
from tests.components.artifacts import CONTEXT, SYSTEM_PROMPT, conversations, make_adapter, make_examples

Q8_0 = ServingForm(engine="openvino", precision="q8_0")
F32 = ServingForm(engine="transformers", precision="f32")
GOLDEN = Golden(prompts=2, tokens=12, gap_bound=0.05)
NO_GOLDEN = Golden(prompts=0, tokens=12, gap_bound=0.05)
TOKENS = torch.arange(5, 85)[None]  # (1, T)


@pytest.fixture(scope="module")
def released(llama, tmp_path_factory):
    """The fine-tuned llama with golden answers, as it is served on a CPU."""
    directory = tmp_path_factory.mktemp("released")
    package(Q8_0, llama.base, llama.adapter, llama.examples, GOLDEN, directory)
    return directory / "release"


def packaged(trained, directory, *, serving=Q8_0, model=None, examples=None, base=None, golden=NO_GOLDEN):
    """The manifest of a release; `model` is what was trained, None packages the bare base."""
    return package(serving, base or trained.base, model, examples or trained.examples, golden, directory)


@torch.no_grad()
def assert_same_logits(one, other, *, atol=1e-5):
    torch.testing.assert_close(one(TOKENS).logits, other(TOKENS).logits, rtol=0, atol=atol)


def weights_of(directory):
    return load_weights(directory / "release", read_release(directory / "release"))


# --- what a release is made of -----------------------------------------------------------------------------------


def test_a_release_is_complete_and_verifies(released, llama):
    manifest = verify_release(released)
    files = {
        "golden.json",
        "system_prompt.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "config.json",
        "model.gguf",
    }
    assert set(manifest.files) == files
    assert {path.name for path in released.iterdir()} == files | {"release.json"}
    assert [path.name for path in released.parent.iterdir()] == ["release"]  # no merged model is left
    assert manifest.base.model_dump() == json.loads((llama.base / "origin.json").read_bytes())
    assert (manifest.data_digest, manifest.context_length, manifest.end_token_ids) == ("d" * 64, CONTEXT, [2])
    assert (released / "system_prompt.txt").read_text() == SYSTEM_PROMPT
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (released / name).read_bytes() == (llama.base / "model" / name).read_bytes()


@pytest.mark.parametrize(
    ("precision", "dtype"), [("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)]
)
def test_a_safetensors_release_holds_its_precision(gpt2, tmp_path, precision, dtype):
    change = {"temperature": 0.5, "do_sample": True, "top_p": 0.9, "our_own": 1}
    base = shutil.copytree(gpt2.base, tmp_path / "base")
    (base / "model" / "generation_config.json").write_text(json.dumps(change))
    serving = ServingForm(engine="transformers", precision=precision)
    packaged(gpt2, tmp_path, serving=serving, model=gpt2.full, base=base)
    release = tmp_path / "release"
    verify_release(release)
    assert {parameter.dtype for parameter in weights_of(tmp_path).parameters()} == {dtype}
    weights = load_file(release / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert "lm_head.weight" not in weights  # GPT-2's head is its embedding
    assert not list(release.glob("*.gguf"))
    assert (release / "model.safetensors").stat().st_mode & 0o777 == 0o644  # a server may be another user
    assert json.loads((release / "generation_config.json").read_bytes()) == change
    config = json.loads((release / "config.json").read_bytes())
    assert config["use_cache"] is True  # training switches it off
    assert config["dtype"] == {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[precision]


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_merged_adapter_computes_what_peft_computes(architecture, request, tmp_path):
    trained = request.getfixturevalue(architecture)
    packaged(trained, tmp_path, serving=F32, model=trained.adapter)
    base = AutoModelForCausalLM.from_pretrained(trained.base / "model").eval()
    with torch.no_grad():
        alone = base(TOKENS).logits
    wrapped = PeftModel.from_pretrained(base, trained.adapter / "adapter").eval()
    assert_same_logits(weights_of(tmp_path), wrapped, atol=1e-4)
    with torch.no_grad():
        assert (wrapped(TOKENS).logits - alone).abs().max() > 0.1  # there was something to merge


def test_a_gguf_holds_the_merged_adapter(released, llama):
    base = AutoModelForCausalLM.from_pretrained(llama.base / "model")
    merged = PeftModel.from_pretrained(base, llama.adapter / "adapter").merge_and_unload().eval()
    with torch.no_grad():
        for parameter in merged.parameters():
            if parameter.ndim == 2:
                blocks = gguf.quantize(parameter.numpy(), gguf.GGMLQuantizationType.Q8_0)
                parameter.copy_(torch.from_numpy(gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)))
    assert_same_logits(weights_of(released.parent), merged)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_fully_trained_model_is_packaged_as_it_is(architecture, request, tmp_path):
    trained = request.getfixturevalue(architecture)
    packaged(trained, tmp_path, serving=F32, model=trained.full)
    assert_same_logits(weights_of(tmp_path), AutoModelForCausalLM.from_pretrained(trained.full / "model").eval())


def test_the_bare_base_takes_the_same_way(llama, tmp_path):
    packaged(llama, tmp_path, serving=F32)
    assert_same_logits(weights_of(tmp_path), AutoModelForCausalLM.from_pretrained(llama.base / "model").eval())
    assert read_golden(tmp_path / "release") == []


# --- the digest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serving", [Q8_0, F32], ids=["gguf", "safetensors"])
def test_packaging_twice_gives_the_same_release(llama, tmp_path, serving):
    digests, files = set(), []
    for place in ("first", "second/deeper"):
        manifest = packaged(llama, tmp_path / place, serving=serving, model=llama.adapter, golden=GOLDEN)
        digests.add(manifest.digest)
        files.append(tree_files(tmp_path / place))
    assert files[0] == files[1]
    assert digests == {read_release(tmp_path / "first" / "release").digest}


def test_the_digest_covers_whatever_is_served(llama, tmp_path):
    count = iter(range(100))

    def digest(**changes):
        return packaged(llama, tmp_path / str(next(count)), **({"model": llama.adapter} | changes)).digest

    def base_with(name, change):
        base = shutil.copytree(llama.base, tmp_path / f"base-{next(count)}")
        (base / name).write_text(change((base / name).read_text()))
        return base

    other_prompt = make_examples(tmp_path / "other-prompt", llama.base, system_prompt="Answer like a pirate.")
    digests = {
        "as it is": digest(),
        "system prompt": digest(examples=other_prompt),
        "adapter": digest(model=make_adapter(tmp_path / "other", llama.base, seed=2)),
        "no adapter": digest(model=None),
        "precision": digest(serving=ServingForm(engine="openvino", precision="f16")),
        "template": digest(base=base_with("model/chat_template.jinja", lambda text: CHATML + "\n")),
        "sampling": digest(base=base_with("model/generation_config.json", lambda text: '{"temperature": 0.1}')),
        "licence": digest(base=base_with("origin.json", lambda text: text.replace("Apache-2.0", "MIT"))),
        "golden answers": digest(golden=GOLDEN),
    }
    assert len(set(digests.values())) == len(digests)
    assert digest() == digests["as it is"]


# --- golden answers ----------------------------------------------------------------------------------------------


def assert_golden(release):
    """Greedy answers of transformers on the stored weights, and gaps computed prefix by prefix without a cache."""
    model = load_weights(release, read_release(release))
    for answer in read_golden(release):
        prompt = torch.tensor([answer.prompt_token_ids])
        said = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, eos_token_id=[2]
        )
        assert answer.token_ids == said[0, prompt.shape[1] :].tolist()
        assert len(answer.gaps) == len(answer.token_ids) == 12
        for position, gap in enumerate(answer.gaps):
            with torch.no_grad():
                last_V = model(said[:, : prompt.shape[1] + position]).logits[0, -1].double()
            probabilities = sorted(last_V.softmax(-1).tolist())
            expected = float(torch.tensor(probabilities[-1] / probabilities[-2]).log())
            assert gap == pytest.approx(expected, abs=6e-4)  # a release states thousandths


def test_golden_answers_are_the_greedy_answers_of_the_stored_weights(released):
    assert_golden(released)


@pytest.mark.parametrize("model", ["adapter", "full"])
def test_the_fallback_engine_serves_what_openvino_does_not_read(gpt2, tmp_path, model):
    with pytest.raises(InputError, match=r"model_type 'gpt2' .* set rollout\.serving\.engine to transformers"):
        packaged(gpt2, tmp_path, model=getattr(gpt2, model))
    packaged(gpt2, tmp_path, serving=F32, model=getattr(gpt2, model), golden=GOLDEN)
    verify_release(tmp_path / "release")
    assert len(read_golden(tmp_path / "release")) == 2
    assert_golden(tmp_path / "release")


def test_golden_questions_are_the_first_validation_questions_as_they_are_served(released):
    tokenizer = load_tokenizer(released)
    asked = conversations(1)[:2]  # the file holds them in another order
    for answer, conversation in zip(read_golden(released), asked, strict=True):
        assert answer.messages == [{"role": "system", "content": SYSTEM_PROMPT}, conversation[0]]
        assert answer.prompt_token_ids == prompt_ids(tokenizer, answer.messages)


def test_a_golden_question_may_come_after_other_turns_or_bring_its_own_system_message(llama, tmp_path):
    own = [{"role": "system", "content": "Be brief."}, *conversations(1)[0]]
    turns = conversations(2)[0]
    examples = make_examples(tmp_path / "examples", llama.base, validation=[own, turns], system_prompt="")
    packaged(llama, tmp_path, examples=examples, golden=Golden(8, 4, 0.05))
    answers = read_golden(tmp_path / "release")
    assert [answer.messages for answer in answers] == [own[:2], turns[:3]]
    assert (tmp_path / "release" / "system_prompt.txt").read_text() == ""


def test_an_answer_stops_at_an_end_token_and_holds_it(released, llama, tmp_path, monkeypatch):
    first = read_golden(released)[0].token_ids
    end = next(token for token in first if token != first[0])
    monkeypatch.setattr(package_module, "end_token_ids", lambda tokenizer: [end])
    packaged(llama, tmp_path, model=llama.adapter, golden=GOLDEN)
    answer = read_golden(tmp_path / "release")[0]
    assert answer.token_ids == first[: first.index(end) + 1]
    assert len(answer.gaps) == len(answer.token_ids)


def test_a_question_that_leaves_no_room_for_its_answer_is_no_golden_one(llama, tmp_path):
    long, short = conversations(2)[0], conversations(1)[0]
    examples = make_examples(tmp_path / "examples", llama.base, validation=[long, short])
    base = shutil.copytree(llama.base, tmp_path / "base")
    config = json.loads((base / "model" / "config.json").read_bytes())
    tokens = prompt_ids(load_tokenizer(base / "model"), [{"role": "system", "content": SYSTEM_PROMPT}, *long[:3]])
    data = json.loads((examples / "data.json").read_bytes())
    for room, questions in ((12, 2), (11, 1)):
        config["max_position_embeddings"] = data["max_tokens"] = len(tokens) + room
        (base / "model" / "config.json").write_text(json.dumps(config))
        (examples / "data.json").write_text(json.dumps(data))
        packaged(llama, tmp_path / str(room), base=base, examples=examples, golden=GOLDEN)
        golden = read_golden(tmp_path / str(room) / "release")
        assert len(golden) == questions and golden[-1].messages[-1] == short[0]
    with pytest.raises(InputError, match=r"no validation question leaves room for 999 tokens .*golden_tokens"):
        packaged(llama, tmp_path / "none", base=base, examples=examples, golden=Golden(2, 999, 0.05))


class OtherEngine:
    """Answers like the real one but for one token."""

    def __init__(self, directory, position):
        self._engine, self._position = open_engine(directory), position
        self.closed = False

    def greedy(self, prompts, max_tokens):
        answers = self._engine.greedy(prompts, max_tokens)
        answers[1][self._position] = (answers[1][self._position] + 1) % 600
        return answers

    def close(self):
        self._engine.close()
        self.closed = True


@pytest.fixture
def other_engine(monkeypatch):
    """`other_engine(position)` puts an engine in place that errs there; the list holds those that were opened."""
    opened = []

    def put(position):
        def open_other(directory):
            opened.append(OtherEngine(directory, position))
            return opened[-1]

        monkeypatch.setattr(package_module, "open_engine", open_other)
        return opened

    return put


def test_an_engine_that_computes_something_else_is_found_out(released, llama, tmp_path, other_engine):
    right = read_golden(released)[1]
    position = max(range(12), key=lambda index: right.gaps[index])
    opened = other_engine(position)
    with pytest.raises(EngineMismatch) as mismatch:
        packaged(llama, tmp_path, model=llama.adapter, golden=GOLDEN)
    wrong = (right.token_ids[position] + 1) % 600
    said = f"token {position}: the engine says {wrong}, the weights say {right.token_ids[position]} with a gap of "
    assert said + f"{right.gaps[position]:.3f} nats" in str(mismatch.value)
    assert [engine.closed for engine in opened] == [True]


def test_an_engine_may_differ_where_the_gap_is_below_the_bound(released, llama, tmp_path, other_engine):
    """An exact engine may not: the bound is for the others."""
    packaged(llama, tmp_path, serving=F32, model=llama.adapter, golden=GOLDEN)
    gap = read_golden(tmp_path / "release")[1].gaps[11]
    other_engine(11)
    packaged(llama, tmp_path, serving=F32, model=llama.adapter, golden=Golden(2, 12, gap + 2e-3))
    with pytest.raises(EngineMismatch):
        packaged(llama, tmp_path, serving=F32, model=llama.adapter, golden=Golden(2, 12, gap - 2e-3))
    with pytest.raises(EngineMismatch):
        packaged(llama, tmp_path, model=llama.adapter, golden=Golden(2, 12, 100.0))


def test_weights_that_do_not_reach_the_engine_are_found_out(llama, tmp_path, monkeypatch):
    """As with an adapter that an engine drops in silence: it answers like the base."""
    packaged(llama, tmp_path / "base")
    monkeypatch.setattr(package_module, "open_engine", lambda directory: open_engine(tmp_path / "base" / "release"))
    with pytest.raises(EngineMismatch, match="the engine does not compute what was scored"):
        packaged(llama, tmp_path / "adapted", model=llama.adapter, golden=GOLDEN)


@pytest.mark.parametrize("serving", [Q8_0, F32], ids=["gguf", "safetensors"])
def test_weights_that_give_no_number_are_refused_in_words(llama, tmp_path, serving):
    """No comparison with NaN is true, so that every answer of the engine would do."""
    diverged = tmp_path / "diverged"
    model = AutoModelForCausalLM.from_pretrained(llama.full / "model")
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    model.save_pretrained(diverged / "model")
    with pytest.raises(InputError, match=r"token 0: the packaged weights give no probabilities .* diverged"):
        packaged(llama, tmp_path, serving=serving, model=diverged, golden=GOLDEN)


# --- refusals and interruptions ----------------------------------------------------------------------------------


def test_examples_longer_than_the_context_are_refused(llama, tmp_path):
    examples = make_examples(tmp_path / "examples", llama.base, max_tokens=CONTEXT + 1)
    with pytest.raises(InputError, match=f"data.max_tokens is {CONTEXT + 1}, but the base's context holds {CONTEXT} "):
        packaged(llama, tmp_path, examples=examples)


def test_what_a_killed_run_has_left_is_replaced(llama, tmp_path):
    whole = packaged(llama, tmp_path / "whole", model=llama.adapter)
    killed = tmp_path / "killed"
    left = (
        "release/model.gguf",
        "release/extra.bin",
        "release/release.json",
        "merged/half.safetensors",
    )
    for name in left:
        (killed / name).parent.mkdir(parents=True, exist_ok=True)
        (killed / name).write_bytes(b"half")
    assert packaged(llama, killed, model=llama.adapter).digest == whole.digest
    verify_release(killed / "release")
    assert tree_files(killed) == tree_files(tmp_path / "whole")


def test_a_kill_while_the_model_is_merged_leaves_nothing_for_the_next_attempt(llama, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(package_module, "write_gguf", die)
        with pytest.raises(KeyboardInterrupt):
            packaged(llama, tmp_path, model=llama.adapter)
    packaged(llama, tmp_path, model=llama.adapter)
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
