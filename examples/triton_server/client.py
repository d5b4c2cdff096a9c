"""Ask the text front of a model in Triton, and print what it answers.

pip install 'tritonclient[http]'
python examples/triton_server/client.py nli_text "all dogs run" "all poodles move"
python examples/triton_server/client.py reviews_text "I loved it."
"""

import sys

import numpy as np
from tritonclient import http


def main() -> None:
    """Send one sentence, or a premise and a hypothesis, to a front on this machine."""
    model, *texts = sys.argv[1:]
    text = http.InferInput("text", [1, len(texts)], "BYTES")
    text.set_data_from_numpy(np.array([texts], dtype=object))
    answer = http.InferenceServerClient("127.0.0.1:8000").infer(model, [text])
    for output in answer.get_response()["outputs"]:
        for value in answer.as_numpy(output["name"])[0].tolist():
            print(output["name"], value.decode() if isinstance(value, bytes) else value)


if __name__ == "__main__":
    main()
