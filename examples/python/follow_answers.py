"""A consumer: prints what agents answer, as it comes.

    python follow_answers.py [CONVERSATION] [--once]

Every final answer is an effect of the kind PublishReply on p2.effects.v1, keyed by its conversation; a bridge to a
chat system would post the text instead of printing it. A group of its own remembers how far it has read, so nothing
is missed while this is stopped. --once ends after the first answer.
"""

import json
import sys

import wire

GROUP = "example.follow-answers"


def main():
    wanted = [word for word in sys.argv[1:] if not word.startswith("--")]
    once = "--once" in sys.argv
    codec, consumer = wire.Codec("effects"), wire.consumer(GROUP)
    consumer.subscribe([wire.topic_name("effects")])
    try:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise SystemExit(f"Kafka: {message.error()}")
            effect = codec.decode(message.value())
            kind, body = effect["body"]
            if kind == "p2.PublishReply" and (not wanted or effect["conversation"] in wanted):
                line = {"conversation": effect["conversation"], "agent": effect["agent"], "text": body["text"],
                        "id": wire.header(message, "ce_id"), "cause": wire.header(message, "p2_cause")}
                print(json.dumps(line), flush=True)
                if once:
                    consumer.commit(message, asynchronous=False)
                    return
            # At least once: a crash between printing and this line prints again, with the same id.
            consumer.commit(message, asynchronous=False)
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
