"""Spectral interference explained in interactive figures, each computed when it is drawn."""

from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import itemgetter

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from hiplora import demo, figures, learn
from hiplora.measures import glossary
from hiplora.ui import cards, shell, tables
from hiplora.ui.session import EPSILONS
from hiplora.ui.text import plain

PAPER = "[HiP-LoRA, arXiv 2604.17751](https://arxiv.org/abs/2604.17751)"
RARE_SHARES = (0.0, 0.01, 0.02, learn.RARE_SHARE, 0.1, 0.2, 0.3, 0.5, 0.7)
PARTS = ("Interference", "Budget", "Merging", "Why inputs matter", "One sentence", "Glossary")

COUNTER_EVIDENCE = """
That interference on the leading directions is what makes adapters forget is a claim. These results bear on it:

- **The leading directions are not all that matters.** What reasoning needs is reported to be spread over the whole
  spectrum ([PALoRA, arXiv 2605.24549](https://arxiv.org/abs/2605.24549)).
- **Both ends of the spectrum forget.** Where training starts from some of a weight's components, forgetting is reported
  to be U-shaped: most from the leading and from the last ones, least from those in between
  ([arXiv 2602.03493](https://arxiv.org/abs/2602.03493)).
- **A tuned LoRA is hard to beat.** With learning rates tuned for each, nine variants are reported within 1 to 2 % of it
  ([arXiv 2602.04998](https://arxiv.org/abs/2602.04998)).
- **Conflict between weights says little of failed merges.** Measures of it are reported to be hardly correlated with
  merging collapse, those of representations strongly ([arXiv 2603.09463](https://arxiv.org/abs/2603.09463)).
- **Damage is reported to lie in the space of outputs, not of weights**
  ([arXiv 2606.18024](https://arxiv.org/abs/2606.18024)). That is the reason for the geometry of the inputs.
- **Our own finding: scaling an adapter down is hard to beat.** Of the demo's three LoRA adapters, one seed each, the
  best edit by blocks of the weights keeps clearly more of the base than the best scaling only for rot-lora (5.4 points,
  95 % interval 4.0 to 6.9). For edit-lora it is 0.6 (0.1 to 1.2), for swap-lora nothing (-0.4, -0.9 to 0.0). And the
  plain relative norm ranks modules about as well as tightness, and better than enrichment. The page Effect measures
  this for an adapter of yours.

The first five are other people's results, on other models: read them before you rely on a picture here.
"""

# Every control is in the address, so that a link shows what its sender saw.
slider = partial(st.slider, bind="query-params")
select_slider = partial(st.select_slider, bind="query-params")


def beside(figures: int) -> list[DeltaGenerator]:
    """Return a narrow column for what can be moved, and one for each figure that moves."""
    return st.columns([2, *[4] * figures], gap="medium")


def experiment(part: Callable[[], None]) -> Callable[[], None]:
    """Make a part of the page repaint alone, with a link that presents it as it is."""

    @shell.fragment
    def with_link() -> None:
        if shell.presented():
            part()
            shell.present_link()
        else:
            above = st.container(horizontal_alignment="right")
            part()
            with above:
                shell.present_link()

    return with_link


shell.require()
st.title("Spectral interference: five experiments")


def remembered(call):
    """Make the table of a call, cached by its arguments."""
    return _remembered(call.func.__name__, call.args, call.keywords, call)


@st.cache_data(max_entries=64, show_spinner=False)
def _remembered(name, args, keywords, _call):
    return _call()


@experiment
def interference() -> None:
    """(a) One update, turned from a leading direction to one of the tail."""
    st.markdown(
        "A weight works along its singular directions: it reads $v_i$, writes $u_i$, and $s_i$ says how strongly. "
        "Turn an update from a leading direction to one of the tail. The update keeps its size; what changes is which "
        "inputs notice it."
    )
    knobs, energy, effect = beside(2)
    k, count = learn.PRINCIPAL_RANK, min(learn.SHAPE)
    with knobs:
        angle = slider(
            "Angle of the update (degrees)", 0, 90, 30, key="learn-angle", help="0: principal; 90: residual."
        )
        with st.expander("More to move"):
            rare_share = select_slider(
                "How often rare inputs come", RARE_SHARES, learn.RARE_SHARE, key="learn-rare",
                format_func=lambda share: f"{100 * share:g}%", help="All other inputs are typical ones.",
            )  # fmt: skip
            p = slider("Principal direction p", 1, k, 1, key="learn-p")
            q = slider("Residual direction q", k + 1, count, 12, key="learn-q")
    with energy:
        cards.figure_card(
            figures.rotation_energy, partial(learn.rotation_directions, angle, p=p, q=q), k, name="learn-energy"
        )
    with effect:
        cards.figure_card(
            figures.rotation_effect,
            partial(learn.rotation_effects, p=p, q=q, rare_share=rare_share),
            angle,
            name="learn-effect",
            compute=remembered,
        )
    st.markdown(
        "**A principal update disturbs what every input uses. A residual one disturbs only rare inputs**, and those "
        "strongly. Over all inputs (the thick curve) it costs less as long as they are rare: let them come more often, "
        "and the curve turns up. That makes rare directions a cheap place for new behavior, if the task's inputs use "
        "them."
    )
    st.latex(r"W_0 = \sum_i s_i u_i v_i^\top, \qquad \Delta W(\theta) = c\, a b^\top")
    st.latex(r"a = \cos\theta\, u_p + \sin\theta\, u_q, \quad b = \cos\theta\, v_p + \sin\theta\, v_q")
    st.latex(r"\text{effect} = \sqrt{\mathbb{E}\lVert \Delta W x\rVert^2 \,/\, \mathbb{E}\lVert W_0 x\rVert^2}")
    st.latex(r"x_{\text{typical}} = \sum_i s_i z_i v_i, \quad x_{\text{rare}} = \sum_{i>k} z_i v_i")
    st.latex(
        r"\text{all: } \mathbb{E}\lVert A x\rVert^2 = (1 - f)\, \mathbb{E}\lVert A x_{\text{typical}}\rVert^2 "
        r"+ f\, \mathbb{E}\lVert A x_{\text{rare}}\rVert^2, \quad A = \Delta W, W_0"
    )
    st.caption(
        f"Paper ({PAPER}): updates that pile up on the leading singular directions interfere with what the base "
        f"does. Our choice: the weight (24 × 16, $s_i = 1/i$, fixed seed, $k = {k}$), the update "
        "($c = 0.1\\,\\lVert W_0\\rVert_F$), both kinds of inputs (all $z_i$ standard normal), and $f$, how often the "
        "rare ones come."
    )


@experiment
def budget() -> None:
    """(b) A core of two directions, and the budget around it."""
    st.markdown(
        "HiP-LoRA keeps two channels apart. What it adds inside the $k$ leading directions is a small matrix, the core "
        "$C$ (here $k = 2$), and a budget says how large it may be. Move the core out of the budget."
    )
    epsilons = [epsilon for epsilon in EPSILONS if 0.01 <= epsilon <= 0.1]
    knobs, picture, words = st.columns([2, 5, 3], gap="large")
    with knobs:
        c11 = slider(
            "C₁₁", -0.15, 0.15, 0.08, 0.01, key="learn-c11", help="Of u₁ v₁ᵀ; the weight has σ₁ = 1 there."
        )  # fmt: skip
        with st.expander("More to move"):
            c22 = slider(
                "C₂₂", -0.15, 0.15, 0.06, 0.01, key="learn-c22", help="Of u₂ v₂ᵀ; the weight has σ₂ = ½ there."
            )  # fmt: skip
            c12 = slider("C₁₂", -0.15, 0.15, 0.02, 0.01, key="learn-c12", help="Of u₁ v₂ᵀ; C₂₁ stays 0.")
            epsilon = select_slider("Budget ε", epsilons, 0.05, key="learn-epsilon")
            power = slider("Power p of the weights", 0.0, 2.0, 1.0, 0.25, key="learn-power")
            penalty = slider("Penalty weight λ of the soft mode", 0.0, 50.0, learn.PENALTY, 1.0, key="learn-lambda")
    cores = partial(learn.budget_cores, c11, c22, c12, epsilon=epsilon, power=power, penalty=penalty)
    raw, effective = (row for _, row in cores().iterrows())
    sections = partial(learn.budget_sections, [raw["c12"], effective["c12"]], epsilon=epsilon, power=power)
    with picture:
        cards.figure_card(figures.core_budget, cores, sections, name="learn-budget")
    with words:
        with st.container(horizontal=True):
            st.metric("Cost of the raw core", f"{raw['cost']:.4f}", border=True)
            st.metric("Tightness", f"{raw['tightness']:.2f}", border=True, help="1: the budget is spent.")
            st.metric("Soft mode charges", f"{raw['charge']:.3f}", border=True, help="λ × cost, added to the loss.")
        st.markdown(
            "**Hard mode** scales the whole core back, so $C_{12}$ shrinks too: a limited core lies on the dotted "
            "curve. **Soft mode** cuts nothing and charges for the cost: training decides what it is worth."
        )
    st.latex(r"\Delta W = U_k C V_k^\top + \tfrac{\alpha}{r} (I - U_k U_k^\top) B A (I - V_k V_k^\top)")
    st.caption(f"Paper ({PAPER}): two channels from the cached SVD. Our choice: the projections on both sides.")
    st.latex(r"\mathrm{cost}(C) = \frac{\sum_{ij} w_i w_j C_{ij}^2}{\sum_i (w_i s_i)^2}, \quad w_i = (s_i / s_1)^p")
    st.latex(r"\text{tightness} = \sqrt{\mathrm{cost}(C)} \,/\, \varepsilon")
    st.caption("Paper: a budget weighted by singular values. Our choice: these formulas, p and ε.")
    st.latex(r"\text{soft: } \text{loss} + \lambda\, \mathrm{cost}(C)")
    st.latex(r"\text{hard: } C \mapsto C \min\bigl(1,\, \varepsilon / \sqrt{\mathrm{cost}(C)}\bigr)")
    st.caption(
        "Paper: a continuous balance between stability and plasticity, as in soft mode (over many layers: λ times "
        "their mean cost). Our choice: hard mode, and λ = 10 by default."
    )


@experiment
def merging() -> None:
    """(c) Two updates on one weight, and what their sum leaves of each."""
    st.markdown(
        "Two adapters, each trained for its own task, are added: $W_0 + \\Delta W_1 + \\Delta W_2$. The first lies on "
        "the two leading directions. Move the second from these to directions of its own."
    )
    knobs, *pictures = beside(2)
    with knobs:
        angle = slider(
            "Where the second adapter lies (degrees)", 0, 90, 20, key="learn-merge",
            help="0: on the directions of the first; 90: on its own residual directions, 9 and 10.",
        )  # fmt: skip
    effects = remembered(partial(learn.merge_effects))
    for picture, draw in zip(pictures, (figures.merge_error, figures.merge_typical)):
        with picture:
            cards.figure_card(
                draw,
                partial(learn.merge_effects),
                angle,
                name=f"learn-{draw.__name__.replace('_', '-')}",
                compute=remembered,
            )
    here = effects[effects["angle"] == angle].iloc[0]
    shown = (
        ("Cosine", "cosine", "Of the two updates as a whole."),
        ("Cosine, principal channel", "cosine_pp", "Of their principal blocks."),
        ("Cosine, residual channel", "cosine_rr", "Of their residual blocks; the first has none here."),
        (
            "Overlap",
            "overlap_right",
            "Of the spaces they read from, and here of those they write to: 1 the same, 0 apart.",
        ),
        ("Joint tightness", "joint_tightness", "Of the summed cores, at ε = 0.05."),
    )
    with st.container(horizontal=True):
        for label, column, meaning in shown:
            value = here[column]
            st.metric(label, "–" if value != value else f"{abs(value):.2f}", border=True, help=meaning)
    st.markdown(
        "**Shared directions matter, not similarity**: on the same directions the "
        "cosine is only 0.5, yet the other adapter changes a task's outputs as much as its own does."
    )
    st.latex(
        r"\text{error of task 1} = \sqrt{\frac{\mathbb{E}\lVert \Delta W_2 x\rVert^2}"
        r"{\mathbb{E}\lVert \Delta W_1 x\rVert^2}}, \quad x = R_1^\top z"
    )
    st.latex(r"\text{overlap} = \lVert Q_1^\top Q_2\rVert_F^2 \,/\, \min(r_1, r_2)")
    st.caption(
        f"Paper ({PAPER}): merges fail when adapters meet on the leading directions. Our choice: the two updates "
        "($\\Delta W_i = L_i R_i$, rank 2, the same size, outputs turned by 60° against each other), the error and the "
        "measures of pairs. Residual directions do not help by themselves: two adapters on the same ones would disturb "
        "each other as much. There are more of them, so adapters meet less."
    )
    shell.link("merge", "Merge adapters of your own, and measure what is left of each")


@experiment
def inputs() -> None:
    """(d) A strong direction that no input uses, and what both geometries make of an update on it."""
    st.markdown(
        "The weight's strongest direction is where an update should do most harm. But a direction that no input uses "
        "carries nothing: an update there changes no output. Weights alone cannot tell; the inputs can."
    )
    knobs, views, damage = beside(2)
    with knobs:
        use = select_slider(
            "Use of the strong direction by inputs", learn.USES, 0.0, key="learn-use",
            format_func=lambda use: f"{use:g}",
            help="Root mean square along v₁ over that along any other direction. 0: no input uses it.",
        )  # fmt: skip
        angle = slider(
            "Where the update points (degrees)", 0, 90, 0, key="learn-points",
            help="0: the strong direction 1; 90: the weak direction 12.",
        )  # fmt: skip
    with views:
        cards.figure_card(
            figures.two_views, partial(learn.two_views, angle, use), learn.PRINCIPAL_RANK, name="learn-views"
        )
    with damage:
        cards.figure_card(
            figures.input_damage,
            partial(learn.input_damages, angle),
            use,
            name="learn-damage",
            compute=remembered,
        )
    st.markdown(
        "**At 0° and 0 the weights raise the alarm, and nothing happens.** At 90° they see nothing, and outputs change "
        "as by any other update of this size. Above 1 the strong direction is a busy one too, and both agree."
    )
    st.latex(r"M = \mathbb{E}[x x^\top] = K K^\top, \qquad W_0 \to W_0 K, \quad \Delta W \to \Delta W K")
    st.latex(r"\text{damage} = \mathbb{E}\lVert \Delta W x\rVert^2 = \lVert \Delta W K\rVert_F^2")
    st.caption(
        "Our choice: the geometry of the inputs, this weight (the one of the first tab), the update ($c\\, a b^\\top$, "
        "a tenth of the weight's norm) and the inputs (independent along all $v_i$, equally strong but for $v_1$). "
        "*Geometry: Inputs* in the sidebar shows every page of a real adapter this way."
    )
    st.subheader("What speaks against all this")
    st.markdown(COUNTER_EVIDENCE)


@st.cache_resource(show_spinner="Loading torch and the demo's models…")
def load_probe(task: str):
    from hiplora.demo.sentence import Probe

    return Probe(demo.base_path(), [demo.adapter_path(f"{task}-{method}") for method in demo.SHIPPED_METHODS])


@st.cache_data(show_spinner="Asking both adapters some held-out lines…")
def comparison(task: str):
    from hiplora.demo.sentence import compare

    return compare(load_probe(task))


@experiment
def one_sentence() -> None:
    """(e) One line through the base, LoRA and HiP-LoRA."""
    from hiplora.demo.sentence import answer_table, broken_by, fork, telling_lines

    skills = "; ".join(f"`{name}` {skill.summary}" for name, skill in (demo.SKILLS | demo.TASKS).items())
    st.markdown(
        "The demo's base knows eight skills: to `copy jedt=` it answers jedt. Each adapter was trained on one task and "
        "should leave the skills alone. Pick a line, or type your own up to the equals sign."
    )
    task = st.segmented_control(
        "Task of the adapters",
        list(demo.TASKS),
        default="swap",
        key="learn-task",
        required=True,
        bind="query-params",
    )
    probe, compared = load_probe(task), comparison(task)
    lora, hiplora = (adapter.name for adapter in probe.adapters)
    example, count = st.columns(2, gap="large")
    line = example.selectbox(
        "Line",
        telling_lines(compared, lora, hiplora),
        key=f"learn-line-{task}",
        accept_new_options=True,
        help=skills,
        bind="query-params",
    )
    prompt = probe.prompt(line or "")
    answers = answer_table(probe, prompt, task)
    broken = broken_by(compared, lora, hiplora)
    methods = [adapter.method for adapter in probe.adapters]
    example.markdown(f"#### {story(prompt, answers, methods)}")
    count.markdown(f"#### {counted(broken, methods)}")
    count.caption(
        f"{len(compared)} held-out lines, as many of each skill. The list to choose from has lines that one adapter "
        "breaks alone, so a line chosen there says nothing of how often: these counts do."
    )
    tables.show(
        answers.assign(correct=answers["correct"].map({True: "yes", False: "no", None: "–"})),
        {
            "model": "Model",
            "answer": "Answer",
            "right_answer": "Right answer",
            "correct": "Right",
            "task_score": f"Measured: task {task}",
            "skill_score": f"Measured: {prompt.partition(' ')[0]}",
            "retention": "Measured: base skills kept",
        },
        "What each model answers.",
    )
    st.caption(
        "One sentence is an anecdote. The measured columns are the scores on the cards: the share of up to 400 "
        "held-out lines answered without one wrong character, and the mean over all eight skills relative to the base."
    )
    wide, narrow = st.columns([3, 2], gap="large")
    with wide:
        cards.figure_card(figures.probe_effects, partial(probe.layer_effects, prompt), name="learn-probe")
    with narrow:
        text = fork(prompt, answers["answer"])
        cards.figure_card(figures.next_tokens, partial(probe.next_tokens, text), name="learn-tokens")
    st.latex(r"\lVert \Delta W_b\, x\rVert \,/\, \lVert W_0\, x\rVert")
    st.caption(
        f"Paper ({PAPER}): the two channels. Our choice: this measure for each block $b$ (principal, mixed, residual), "
        f"k = {probe.k} as the HiP-LoRA adapters were trained, and the split of a plain LoRA. This also has mixed "
        "blocks, which touch the leading directions on one side and belong to neither channel."
    )


def story(prompt, answers, methods):
    """Tell what the line asks for and what each model answers, wrong letters marked."""
    from hiplora.demo.sentence import compare_letters, instruction

    told = [f"The model must {plain(instruction(prompt))}."]
    for name, row in zip(("Base", *methods), answers.itertuples(), strict=True):
        letters = [(row.answer, True)] if row.right_answer is None else compare_letters(row.answer, row.right_answer)
        words = ""
        for same, run in groupby(letters, key=itemgetter(1)):
            part = plain("".join(letter for letter, _ in run))
            words += part if same else f":red-background[:red[{part}]]"
        verdict = {True: " (right)", False: " (wrong)"}.get(row.correct, "")
        told.append(f"{name}: {words or 'nothing'}{verdict}.")
    return " ".join(told)


def counted(broken, methods):
    """Say how many lines either adapter breaks."""
    count = broken.value_counts().reindex(["first", "second", "both"], fill_value=0)
    return (
        f"Of {(broken != 'base').sum()} lines that the base gets right: {methods[0]} alone breaks {count['first']}, "
        f"{methods[1]} alone {count['second']}, both break {count['both']}."
    )


def words() -> None:
    """Define every measure and every other word of the app."""
    st.markdown("The measures with their formulas stand in the documentation, and under every figure that shows them.")
    st.markdown("\n\n".join(f"**{each.name}.** {plain(each.meaning)}" for each in glossary()))


SHOWN = (interference, budget, merging, inputs, one_sentence, words)
# Only the open part is computed: the last one needs torch, which takes seconds to import.
for tab, part in zip(st.tabs(PARTS, key="part", bind="query-params", on_change="rerun"), SHOWN):
    if tab.open:
        with tab:
            part()
