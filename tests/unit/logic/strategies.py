"""What the properties of the decisions are tried with."""

import string

from hypothesis import strategies as st

from busframe.model.destination import Address, DeadLetters, Queue, Topic

NAME_CHARACTERS = string.ascii_letters + string.digits + "-_."

any_text = st.text(st.characters(exclude_categories=()), max_size=60)
"""Any text that Python can hold: control characters, emoji, lone surrogates."""

header_text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=60).map(str.strip)
"""What a header may say."""


def is_valid(name: str) -> bool:
    """Semantics A.8, said once more."""
    return "--" not in name and ".." not in name and name == name.strip("-.") and not name.lower().startswith("amq.")


names = st.text(NAME_CHARACTERS, min_size=1, max_size=12).filter(lambda name: is_valid(name) and name != "bf")
"""Valid names, short ones, so that they meet."""

close_names = st.text("aAb.-_", min_size=1, max_size=4).filter(is_valid)
"""Valid names that are often the same, or nearly."""

subscription_names = close_names.filter(lambda name: name not in {"dead", "retry"})

sources = st.one_of(
    close_names.map(Queue),
    st.builds(lambda topic, name: Topic(topic).subscription(name), close_names, subscription_names),
)

addresses: st.SearchStrategy[Address] = st.one_of(sources, sources.map(DeadLetters), close_names.map(Topic))
