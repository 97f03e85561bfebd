"""Preset vladr-authors-code against a naive reading of what the authors' code computes.

The reference below knows nothing of this project's modules: it takes tensors under the authors'
names and computes one step of their second stage with loops and plain torch.
"""

import dataclasses
import re
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn
from torch.nn import functional

from models.losses.alignment import affinity as our_affinity
from models.vladr.authors_checkpoint import from_authors
from runner.config.run_config import ConfigError, load_config
from runner.training.collectives import LocalGroup
from runner.training.optim import (
    build_optimizer,
    learning_rate_factor,
    set_learning_rate,
    set_trainable,
)
from runner.training.worker import build_learner
from tasks.schema import Batch, Domain, Record, Split

PRESET = "vladr-authors-code"
TINY = (
    *("backbone.name=tiny-clip", "backbone.weights=random"),
    *("backbone.image_height=32", "backbone.image_width=16", "cluster.use_gpu=false"),
)
NUM_HEADS, CONTEXT = 4, 64
NUM_PERSONS, IMAGES_EACH = (5, 6), 4
PAGE = (Path(__file__).parents[3] / "docs" / "vladr.md").read_text(encoding="utf-8")


# The reference: their step, by their names ----------------------------------------------------


def layer_norm(x, state, name):
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attend(queries, keys, values, num_heads, causal=False):
    """[B, Q, W], [B, L, W], [B, L, W] -> [B, Q, W], head by head."""
    outputs = []
    for q, k, v in zip(*(x.chunk(num_heads, -1) for x in (queries, keys, values)), strict=True):
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if causal:
            later = torch.ones(scores.shape[1:]).triu(1).bool()
            scores = scores.masked_fill(later, float("-inf"))
        outputs.append(scores.softmax(-1) @ v)
    return torch.cat(outputs, -1)


def transformer(x, state, name, causal):
    layer = 0
    while f"{name}.resblocks.{layer}.ln_1.weight" in state:
        block = f"{name}.resblocks.{layer}"
        inner = layer_norm(x, state, f"{block}.ln_1")
        inner = (
            inner @ state[f"{block}.attn.in_proj_weight"].T + state[f"{block}.attn.in_proj_bias"]
        )
        inner = attend(*inner.chunk(3, -1), NUM_HEADS, causal)
        x = x + linear(inner, state, f"{block}.attn.out_proj")
        inner = linear(layer_norm(x, state, f"{block}.ln_2"), state, f"{block}.mlp.c_fc")
        x = x + linear(inner * torch.sigmoid(1.702 * inner), state, f"{block}.mlp.c_proj")
        layer += 1
    assert layer > 0
    return x


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def image_tower(images, state):
    """g, f and the projected patches."""
    own = {k.removeprefix("image_encoder."): v for k, v in state.items()}
    kernel = own["conv1.weight"]
    patches = functional.conv2d(images, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    first = own["class_embedding"].expand(len(images), 1, -1)
    tokens = torch.cat([first, patches], 1) + own["positional_embedding"]
    tokens = transformer(layer_norm(tokens, own, "ln_pre"), own, "transformer", False)
    tokens = layer_norm(tokens, own, "ln_post")
    projected = tokens @ own["proj"]
    return tokens[:, 0], projected[:, 0], projected[:, 1:]


def text_tower(embedded, ends, state):
    own = {k.removeprefix("text_encoder."): v for k, v in state.items()}
    tokens = transformer(embedded + own["positional_embedding"], own, "transformer", True)
    tokens = layer_norm(tokens, own, "ln_final")
    return (
        torch.stack([row[end] for row, end in zip(tokens, ends, strict=True)])
        @ (own["text_projection"])
    )


def encode_captions(captions, state, table):
    tokens = open_clip.tokenize(list(captions), context_length=CONTEXT)
    features = text_tower(table[tokens], tokens.argmax(1), state)
    return functional.normalize(features, dim=-1)


def encode_prompts(vectors, state, table):
    tokens = open_clip.tokenize(["A photo of a X X X X person."], context_length=CONTEXT)
    embedded = table[tokens].repeat(len(vectors), 1, 1)
    embedded[:, 5:9] = vectors
    return text_tower(embedded, tokens.argmax(1).expand(len(vectors)), state)


def attributes(patches, state):
    own = {k.removeprefix("region_attn."): v for k, v in state.items()}
    queries = own["queries"].expand(len(patches), -1, -1)
    q, k, v = (
        linear(queries, own, "q_proj"),
        linear(patches, own, "k_proj"),
        linear(patches, own, "v_proj"),
    )
    regions = linear(attend(q, k, v, 8), own, "proj_out")
    return functional.normalize(linear(regions, state, "region_proj"), dim=-1)


def cross_entropy(logits, targets):
    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        total -= row.log_softmax(0)[target]
    return total / len(targets)


def soft_triplet(features, people):
    total = 0.0
    for anchor, person in zip(features, people, strict=True):
        distances = [(anchor - other).pow(2).sum().clamp(min=1e-12).sqrt() for other in features]
        same = [d for d, p in zip(distances, people, strict=True) if p == person]
        other = [d for d, p in zip(distances, people, strict=True) if p != person]
        total += torch.log1p(torch.exp(max(same) - min(other)))
    return total / len(people)


def classified(g, state):
    neck = (g - g.mean(0)) / (g.var(0, unbiased=False) + 1e-5).sqrt()
    neck = neck * state["bottleneck.weight"] + state["bottleneck.bias"]
    return neck @ state["classifier.weight"].T


def affinity_rows(v, part):
    rows = []
    for one in v[:, part]:
        cosines = torch.stack([functional.cosine_similarity(one, two, dim=0) for two in v[:, part]])
        rows.append((cosines / 0.005).softmax(0))
    return rows


def affinity(new, old):
    total = 0.0
    for part in range(4):
        for p_new, p_old in zip(affinity_rows(new, part), affinity_rows(old, part), strict=True):
            log_new = p_new.clamp(min=1e-8).log()
            total += torch.xlogy(p_old, p_old).sum() - (p_old * log_new).sum()
    return max(total / len(new), torch.zeros(()))


def reference_terms(weak, strong, people, parts, first_person, state, old, table):
    """Their summands: names of ours, each by the weight it has in their sum."""
    targets = [person + first_person for person in people]
    g, f, patches = image_tower(weak, state)
    g_strong, f_strong, _ = image_tower(strong, state)
    v = attributes(patches, state)
    fine = 0.0
    for part in range(4):
        texts = encode_captions([each[part] for each in parts], state, table)
        diagonal = range(len(texts))
        to_text = cross_entropy(v[:, part] @ texts.T, diagonal)
        fine += 0.5 * (to_text + cross_entropy(texts @ v[:, part].T, diagonal)) / 4
    distinct = sorted(set(targets))
    bank = encode_prompts(state["prompt_learner.cls_ctx"][distinct], state, table)
    logits = functional.normalize(f, dim=1) @ functional.normalize(bank, dim=1).T
    terms = {
        "identity": sum(cross_entropy(classified(each, state), targets) for each in (g, g_strong)),
        "triplet": soft_triplet(f, targets) + soft_triplet(f_strong, targets),
        "image_text": cross_entropy(logits, [distinct.index(target) for target in targets]),
        "cma": fine,
    }
    if old is not None:
        terms["affinity"] = affinity(v, attributes(image_tower(weak, old)[2], old))
    return terms


def reference_prompt_loss(images, people, state, table):
    """Their first stage's loss: inner products of features as they are, both directions added."""
    with torch.no_grad():
        image = image_tower(images, state)[1]
    text = encode_prompts(state["prompt_learner.cls_ctx"][people], state, table)
    total = 0.0
    for anchors, others in ((image, text), (text, image)):
        for anchor, person in zip(anchors, people, strict=True):
            log_probabilities = torch.stack([anchor @ other for other in others]).log_softmax(0)
            same = [i for i, other in enumerate(people) if other == person]
            total -= log_probabilities[same].mean() / len(people)
    return total


# A world for both -----------------------------------------------------------------------------


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_domain(number):
    records = []
    for person in range(NUM_PERSONS[number]):
        for image in range(IMAGES_EACH):
            parts = (
                f"hair {person}",
                "a red coat",
                f"blue trousers {image}",
                f"shoes {person % 2}",
            )
            path = f"{number}/{person}_{image}.jpg"
            records.append(Record(path, person, image, (" ".join(parts),), parts))
    return Domain(f"domain-{number}", tuple(records), Split((), ()), Split((), ()))


def make_images(number):
    return draw(NUM_PERSONS[number] * IMAGES_EACH, 3, 32, 16, seed=number)


def make_batch(number):
    people = [3, 0, 4, 1]
    indices = torch.tensor(
        [person * IMAGES_EACH + image for person in people for image in (2, 0, 3)]
    )
    images = make_images(number)[indices]
    views = {
        name: images + 0.3 * draw(*images.shape, seed=seed)
        for name, seed in (("weak", 8), ("strong", 9))
    }
    person_ids = indices // IMAGES_EACH
    return Batch(indices, person_ids, torch.zeros_like(indices), views)


def make_learner(*overrides):
    learner = build_learner(load_config(PRESET, [*TINY, *overrides]), LocalGroup())
    for parent in list(learner.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GELU):
                setattr(parent, name, QuickGELU())
    return learner


def authors_state(learner, number):
    """Random weights under the authors' names, as their checkpoint of a domain has them."""
    shapes = {f"image_encoder.{k}": v for k, v in learner.network.image.visual.state_dict().items()}
    state = {
        name: value + 0.02 * draw(*value.shape, seed=100 * number + place)
        for place, (name, value) in enumerate(shapes.items())
    }
    text = learner.text.state_dict()
    state |= {
        f"text_encoder.{name}": value + 0.02 * draw(*value.shape, seed=place)
        for place, (name, value) in enumerate(text.items())
        if name not in ("token_embedding.weight", "logit_scale")
    }
    size, people = 96, sum(NUM_PERSONS[: number + 1])
    for place, letter in enumerate(("q_proj", "k_proj", "v_proj", "proj_out")):
        state[f"region_attn.{letter}.weight"] = 0.2 * draw(size, size, seed=place + 10 * number)
        state[f"region_attn.{letter}.bias"] = 0.2 * draw(size, seed=place + 20 * number)
    state["region_attn.queries"] = draw(4, size, seed=number + 30)
    state["region_proj.weight"] = 0.2 * draw(size, size, seed=number + 40)
    # Attributes that are alike: at temperature 0.005 others would see nothing but themselves.
    state["region_proj.bias"] = (25, 30)[number] * draw(size, seed=number + 50)
    for name in ("", "_proj"):
        state[f"bottleneck{name}.weight"] = 1 + 0.2 * draw(size, seed=number + 60)
        state[f"bottleneck{name}.bias"] = 0.2 * draw(size, seed=number + 70)
        state[f"bottleneck{name}.running_mean"] = draw(size, seed=number + 80)
        state[f"bottleneck{name}.running_var"] = 1 + draw(size, seed=number + 90).abs()
        state[f"bottleneck{name}.num_batches_tracked"] = torch.tensor(7)
        state[f"classifier{name}.weight"] = 0.3 * draw(people, size, seed=number + 95)
    vectors = [0.02 * draw(n, 4, size, seed=i + 97) for i, n in enumerate(NUM_PERSONS)]
    state["prompt_learner.cls_ctx"] = torch.cat(vectors[: number + 1])
    state["prompt_learner.token_prefix"] = torch.zeros(1, 5, size)
    state["prompt_learner.token_suffix"] = torch.zeros(1, 68, size)
    return state


def snippet(name):
    """The page's function of this name."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (code,) = [block for block in blocks if f"def {name}(" in block]
    space = {}
    exec(code, space)
    return space[name]


class Both:
    """Our learner and their tensors after each of two domains has been loaded."""

    def __init__(self, folder, *overrides):
        self.learner = make_learner(*overrides)
        self.table = self.learner.text.token_embedding.weight.detach()
        states = [authors_state(self.learner, number) for number in range(2)]
        step, self.states, self.results = snippet("authors_step"), states, []
        for number, state in enumerate(states):
            path = folder / f"{number}.pth.tar"
            torch.save({"state_dict": {f"module.base.{k}": v for k, v in state.items()}}, path)
            images, batch = make_images(number), make_batch(number)
            result = step(self.learner, make_domain(number), images, path, batch)
            self.results.append(result)

    def terms(self, number):
        """Our terms by their weights."""
        result = self.results[number]
        return {name: result.weights[name] * value.detach() for name, value in result.terms.items()}

    @torch.no_grad()
    def wanted(self, number, states=None):
        precision = torch.float64
        given = states or self.states
        states = [{k: v.to(precision) for k, v in state.items()} for state in given]
        batch, records = make_batch(number), make_domain(number).train
        return reference_terms(
            batch.views["weak"].to(precision),
            batch.views["strong"].to(precision),
            batch.person_ids.tolist(),
            [records[index].parts for index in batch.indices.tolist()],
            number * NUM_PERSONS[0],
            states[number],
            states[0] if number else None,
            self.table.to(precision),
        )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return Both(tmp_path_factory.mktemp("authors"))


# The loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_loss_equals_the_authors_code_within_1e_5(both, number):
    wanted, found = both.wanted(number), both.terms(number)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(float(value), abs=1e-5), name
        assert float(value) > 0.1, f"{name} would be met by anything"
    loss = both.results[number].loss.detach()
    assert float(loss) == pytest.approx(float(sum(wanted.values())), abs=1e-5)


def test_loss_equals_the_authors_code_in_float64_at_the_floor(both):
    """The new attributes are less alike than the old, so much that their affinities vanish."""
    learner, states = make_learner(), [dict(state) for state in both.states]
    for number, share in enumerate((2.4, 0.6)):
        states[number]["region_proj.bias"] = share * states[number]["region_proj.bias"]
    for number, state in enumerate(states):
        begin(learner.float(), number)
        first_person = number * NUM_PERSONS[0]
        learner.load_state_dict(from_authors(state, first_person), strict=False)
        learner.textual.freeze_attributes(learner.text)
        learner.end_stage("mtad-identity", None)
        batch = make_batch(number)
        views = {name: images.double() for name, images in batch.views.items()}
        result = learner.double().train()(dataclasses.replace(batch, views=views), "icar")
        wanted = both.wanted(number, states=states)
        for name, value in wanted.items():
            found = result.weights[name] * result.terms[name].detach()
            assert float(found) == pytest.approx(float(value), abs=1e-8), name
        learner.memory.freeze()
    assert float(wanted["affinity"]) > 10


@pytest.mark.parametrize(
    ("switch", "changed"),
    [
        ("losses.identity.weight=1", "identity"),
        ("losses.identity.label_smoothing=0.1", "identity"),
        ("losses.identity.classifiers=[projected]", "identity"),
        ("losses.identity.classifiers=[class_token,projected]", "identity"),
        ("losses.triplet.weight=1", "triplet"),
        ("losses.triplet.margin=0.3", "triplet"),
        ("losses.triplet.normalise=true", "triplet"),
        ("losses.image_text.temperature=0.07", "image_text"),
        ("losses.image_text.candidates=domain", "image_text"),
        ("losses.cma.temperature=0.07", "cma"),
        ("losses.cma.reduction=sum", "cma"),
        ("losses.cma.distance=cosine", "cma"),
        ("num_attribute_tokens=2", "cma"),
        ("losses.affinity.temperature=0.05", "affinity"),
        ("losses.affinity.reduction=mean", "affinity"),
        ("losses.affinity.keep_diagonal=false", "affinity"),
        ("losses.affinity.probability_floor=0.2", "affinity"),
    ],
)
def test_every_switch_of_the_preset_matters(both, tmp_path, switch, changed):
    other = Both(tmp_path, f"learner.{switch}").terms(1)
    for name, value in both.terms(1).items():
        is_equal = abs(float(other[name]) - float(value)) < 1e-5
        assert is_equal == (name != changed), name


def test_equal_texts_as_positives_are_the_diagonal_by_another_name(both, tmp_path):
    """Their features are equal: what one anchor loses by the mean, another of its text gains."""
    other = Both(tmp_path, "learner.losses.cma.positives=caption").terms(1)
    assert float(other["cma"]) == pytest.approx(float(both.terms(1)["cma"]), abs=1e-6)


def test_both_views_would_change_all_that_is_aligned(both, tmp_path):
    other, own = Both(tmp_path, "learner.views=both").terms(1), both.terms(1)
    changed = {name for name in own if abs(float(other[name]) - float(own[name])) > 1e-5}
    assert changed == {"image_text", "cma", "affinity"}


def test_the_activation_matters(tmp_path, both, monkeypatch):
    monkeypatch.setitem(make_learner.__globals__, "QuickGELU", nn.GELU)
    other, own = Both(tmp_path).terms(1), both.terms(1)
    assert all(
        abs(float(other[term]) - float(own[term])) > 1e-4 for term in ("identity", "affinity")
    )
    name = load_config(PRESET).backbone.name
    assert open_clip.get_model_config(name)["quick_gelu"]


def test_the_floor_of_the_affinity_is_theirs_where_it_is_reached():
    settings = load_config(PRESET).learner.losses.affinity
    old = functional.normalize(20 + draw(6, 4, 8, seed=0).double(), dim=-1)
    new = functional.normalize(draw(6, 4, 8, seed=1).double(), dim=-1)
    assert min(float(row.min()) for row in affinity_rows(new, 0)) < 1e-8
    rest = (settings.temperature, settings.reduction, settings.keep_diagonal)
    found = our_affinity(new, old, *rest, settings.probability_floor)
    assert float(found) == pytest.approx(float(affinity(new, old)), abs=1e-9)
    assert abs(float(our_affinity(new, old, *rest, 0.0)) - float(found)) > 1


@pytest.mark.parametrize("switch", ["weight=1", "similarity=cosine", "temperature=0.07", None])
def test_the_loss_of_the_prompts_is_theirs(both, switch):
    learner = make_learner(*([f"learner.losses.match_global.{switch}"] if switch else []))
    state = from_authors(both.states[0])
    image = {k: v for k, v in state.items() if k.startswith("network.image.")}
    untouched = {k.replace("network.image", "pretrained.module"): v for k, v in image.items()}
    text = {k: v for k, v in state.items() if k.startswith("text.")}
    learner.load_state_dict(untouched | text, strict=False)
    begin(learner, 0)
    learner.load_state_dict({k: v for k, v in state.items() if "identities" in k}, strict=False)
    assert [stage.name for stage in learner.stages()] == ["mtad-identity", "icar"]
    batch = make_batch(0)
    with torch.no_grad():
        found = float(learner.train()(batch, "mtad-identity").loss)
        images, people = make_images(0)[batch.indices], batch.person_ids.tolist()
        wanted = float(reference_prompt_loss(images, people, both.states[0], both.table))
    assert (abs(found - wanted) < 1e-5) == (switch is None)


def test_prompts_match_the_untouched_clip_in_later_domains_too(tmp_path):
    fresh = make_learner()
    with torch.no_grad():
        untouched = fresh.network.image(make_images(1)).projected
    for features, is_untouched in (("pretrained", True), ("current", False)):
        learner = Both(tmp_path, f"learner.prompt_features={features}").learner
        begin(learner, 1)
        found = torch.allclose(learner.textual.image_features, untouched, atol=1e-5)
        assert found == is_untouched
        saved = learner.save_state().tensors
        assert not any(path.startswith("pretrained.") for path in saved)


# What trains, and how -------------------------------------------------------------------------


def begin(learner, number):
    def probe(encode):
        learner.eval()
        with torch.no_grad():
            return dict(encode(make_images(number)))

    learner.begin_domain(make_domain(number), probe)


def image_stage(learner):
    (stage,) = [stage for stage in learner.stages() if stage.name == "icar"]
    return stage


def test_exactly_what_they_train_receives_a_gradient():
    learner = make_learner()
    begin(learner, 0)
    stage = image_stage(learner)
    trained = set(set_trainable(learner, stage.trainable))
    learner.end_stage("mtad-identity", None)
    learner.train()(make_batch(0), "icar").loss.backward()
    touched = {path for path, value in learner.named_parameters() if value.grad is not None}
    assert touched == trained
    unread = ("network.neck_projected.", "network.head_projected.")
    own = {f"network.{path}" for path, _ in learner.network.named_parameters()}
    assert trained == {path for path in own if not path.startswith(unread)}
    assert "network.neck_class.bias" in trained


def test_the_neck_that_is_in_no_loss_gathers_statistics():
    learner = make_learner()
    begin(learner, 0)
    learner.end_stage("mtad-identity", None)
    before = learner.network.neck_projected.running_mean.clone()
    learner.train()(make_batch(0), "icar")
    views, momentum, wanted = make_batch(0).views, 0.1, before
    with torch.no_grad():
        for name in ("weak", "strong"):
            mean = learner.network.image(views[name]).projected.mean(0)
            wanted = (1 - momentum) * wanted + momentum * mean
    assert torch.allclose(learner.network.neck_projected.running_mean, wanted, atol=1e-6)


def test_every_parameter_has_their_rate_and_decay():
    learner = make_learner()
    begin(learner, 0)
    stage = image_stage(learner)
    set_trainable(learner, stage.trainable)
    optimizer = build_optimizer(learner, stage.optimizer)
    assert type(optimizer) is torch.optim.Adam
    assert not any(group["amsgrad"] for group in optimizer.param_groups)
    set_learning_rate(optimizer, stage.optimizer.lr)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for path, parameter in learner.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in found
            continue
        rate, decay = 5e-6, 1e-4
        if path.startswith(("network.decoder.queries", "network.decoder.cross_attention")):
            decay = 0.0
        elif "bias" in path:
            rate = 1e-5
        assert found[id(parameter)] == (pytest.approx(rate), decay), path


@pytest.mark.parametrize("per_epoch", [20, 300])
def test_the_schedule_counts_iterations(per_epoch):
    learner = load_config(PRESET).learner
    for stage, base in ((learner.mtad_identity, 3.5e-3), (learner.icar, 5e-6)):
        assert stage.optimizer.lr == base
        for iteration in range(40):
            factor = 1.0
            if iteration < 10:
                factor = 0.01 * (1 - iteration / 10) + iteration / 10
            if iteration >= 30:
                factor *= 0.1
            found = learning_rate_factor(
                stage.optimizer.schedule, iteration, per_epoch, stage.epochs * per_epoch
            )
            assert found == pytest.approx(factor)


def test_new_rows_are_centres_of_what_the_neck_makes_of_g(tmp_path):
    learner = Both(tmp_path).learner
    neck, tower = learner.network.neck_class, learner.network.image
    neck.bias.data.normal_()
    rows = len(learner.network.head_class.weight)
    begin(learner, 1)
    with torch.no_grad():
        g = tower(make_images(1)).class_token
        scale = neck.weight / (neck.running_var + neck.eps).sqrt()
        after = (g - neck.running_mean) * scale + neck.bias
    for person in range(NUM_PERSONS[1]):
        centre = after[person * IMAGES_EACH : (person + 1) * IMAGES_EACH].mean(0)
        found = learner.network.head_class.weight[rows + person]
        assert torch.allclose(found, centre / centre.norm(), atol=1e-5)


# The authors' files ---------------------------------------------------------------------------


def test_every_name_of_theirs_has_its_place(both):
    learner = both.learner
    expected = {path for path in learner.state_dict() if path.startswith(("network.", "text."))}
    found = from_authors(both.states[1], NUM_PERSONS[0])
    theirs = {path for path in expected if path.startswith("text.")} & found.keys()
    assert expected - found.keys() == {"text.token_embedding.weight", "text.logit_scale"}
    assert theirs
    assert found.keys() - expected == {"textual.identities.vectors"}
    assert len(found["textual.identities.vectors"]) == NUM_PERSONS[1]


@pytest.mark.parametrize("wrapper", ["", "base.", "module.", "module.base."])
def test_wrappers_in_front_of_a_name_are_dropped(wrapper):
    found = from_authors({f"{wrapper}classifier.weight": torch.ones(2, 3)})
    assert found.keys() == {"network.head_class.weight"}


def test_unknown_name_is_rejected():
    with pytest.raises(
        ValueError, match=r"backbone\.conv: expected a name of the VLADR authors' network"
    ):
        from_authors({"module.backbone.conv": torch.ones(1)})
    with pytest.raises(ValueError, match=r"expected all of region_attn\.q_proj\.bias, .*got 1"):
        from_authors({"region_attn.q_proj.bias": torch.ones(1)})


def test_a_classifier_is_named_once_and_g_alone_needs_a_loss_on_f():
    with pytest.raises(ConfigError, match="class_token, projected or both, each once; got"):
        load_config(PRESET, ["learner.losses.identity.classifiers=[]"])
    off = [f"learner.losses.{name}.weight=0" for name in ("triplet", "image_text", "cma")]
    with pytest.raises(ConfigError, match="nothing trains the projection"):
        load_config(PRESET, off)
