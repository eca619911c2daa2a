"""The visitor who asked, and the sentence that is shown when something cannot be done."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from surg.demo.pages import Page, sentence
from surg.demo.visits import Visit


def session_of(request: gr.Request) -> str:
    return str(request.session_hash)


def visit_of(page: Page, request: gr.Request) -> Visit:
    return page.visits.of(session_of(request))


def or_sentence(work: Callable[[], Any]) -> Any:
    """Do it, or show the visitor a sentence instead of a traceback."""
    try:
        return work()
    except Exception as error:
        raise gr.Error(sentence(error), print_exception=False) from error
