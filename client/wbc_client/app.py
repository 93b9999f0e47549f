"""The ClientApp that Flower runs at a clinic: every message goes to the boundary, nothing else happens here."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from wbc_client.boundary import answer

app = ClientApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Who is there, with how many cells."""
    return answer(message, context)


@app.query("stain_sums")
def stain_sums(message: Message, context: Context) -> Message:
    """Sums of stain statistics."""
    return answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local training."""
    return answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measurement on site."""
    return answer(message, context)
