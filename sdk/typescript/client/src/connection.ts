/** One connection to the agent's socket. It turns what goes wrong into the family of `errors.ts`; it knows no lease. */

import { connect } from "node:net";

import {
  create,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { Client, credentials, Metadata, type ServiceError, status as Code } from "@grpc/grpc-js";

import {
  AgentUnavailable,
  InvalidRequest,
  LeaseLost,
  LeaseTimeout,
  MembossError,
  NoRoom,
  RequestRefused,
} from "./errors.js";

/** Milliseconds that the agent has for an answer that needs no waiting. */
const ANSWER_WITHIN_MS = 30_000;

/** Milliseconds between attempts to connect: an agent that was started anew is noticed before its grace time is over. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 1_000;

const OPTIONS = {
  // A connection of one's own: closing one boss must not touch another's leases.
  "grpc.use_local_subchannel_pool": 1,
  "grpc.enable_retries": 0,
  "grpc.enable_http_proxy": 0,
  "grpc.service_config_disable_resolution": 1,
  "grpc.initial_reconnect_backoff_ms": FIRST_PAUSE_MS,
  "grpc.max_reconnect_backoff_ms": LONGEST_PAUSE_MS,
  // All leases of a busy node in one answer.
  "grpc.max_receive_message_length": 64 << 20,
};

type ClassOfError = new (what: string, where: string, advice: string, options?: ErrorOptions) => MembossError;

const ADVICE: ReadonlyMap<Code, readonly [ClassOfError, string]> = new Map<Code, readonly [ClassOfError, string]>([
  [Code.INVALID_ARGUMENT, [InvalidRequest, "change the request"]],
  [Code.RESOURCE_EXHAUSTED, [NoRoom, "ask for less, wait (timeoutMs), or ask in a higher class"]],
  [Code.DEADLINE_EXCEEDED, [LeaseTimeout, "wait longer, ask for less, or ask in a higher class"]],
  [Code.NOT_FOUND, [LeaseLost, "stop using its memory, and acquire again"]],
  [Code.PERMISSION_DENIED, [RequestRefused, "a lease is its owner's alone"]],
  [Code.UNIMPLEMENTED, [RequestRefused, "the agent is older than this package: update it"]],
]);

/** A stream of answers that is being listened to. */
export interface Listening {
  /** Settles when it ends: by the agent without an error, or with one of `errors.ts`. */
  readonly over: Promise<void>;
  /** Ends it from here. */
  cancel(): void;
}

/** What goes with a question. */
export interface Asking {
  /** Names what it is about in errors; the socket without it. */
  where?: string;
  /** Milliseconds for the answer. */
  withinMs?: number;
}

/** A connection of this process. */
export class Connection {
  readonly #client: Client;

  constructor(readonly path: string) {
    this.#client = new Client(`unix:${path}`, credentials.createInsecure(), OPTIONS);
  }

  /** Looks whether somebody listens. `AgentUnavailable` if nobody does. */
  async open(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const socket = connect(this.path);
      socket.once("connect", () => {
        socket.destroy();
        resolve();
      });
      socket.once("error", (error) => reject(this.#unavailable(error.message, "", error)));
    });
  }

  /** Ends it. */
  close(): void {
    this.#client.close();
  }

  /** One question, one answer. Any of `errors.ts`. */
  async ask<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    message: MessageInitShape<I>,
    { where = "", withinMs = ANSWER_WITHIN_MS }: Asking = {},
  ): Promise<MessageShape<O>> {
    return await new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(
        pathOf(method),
        serializer(method.input),
        deserializer(method.output),
        create(method.input, message),
        new Metadata(),
        {},
        (error, answer) => {
          clearTimeout(timer);
          if (late) reject(this.#unavailable(`no answer within ${withinMs} ms`, where, error));
          else if (error) reject(this.#translated(error, where));
          else if (answer === undefined) reject(this.#unavailable("an empty answer", where));
          else resolve(answer);
        },
      );
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        call.cancel();
      }, withinMs);
    });
  }

  /** One question, many answers, as they come. */
  listen<I extends DescMessage, O extends DescMessage>(
    method: DescMethodServerStreaming<I, O>,
    message: MessageInitShape<I>,
    heard: (answer: MessageShape<O>) => void,
    { where = "" }: Asking = {},
  ): Listening {
    const call = this.#client.makeServerStreamRequest(
      pathOf(method),
      serializer(method.input),
      deserializer(method.output),
      create(method.input, message),
      new Metadata(),
      {},
    );
    const over = new Promise<void>((resolve, reject) => {
      call.on("data", heard);
      call.on("end", resolve);
      call.on("error", (error: ServiceError) => reject(this.#translated(error, where)));
    });
    return { over, cancel: () => call.cancel() };
  }

  #translated(error: ServiceError, where: string): MembossError {
    const known = ADVICE.get(error.code);
    const words = error.details || Code[error.code];
    if (known === undefined) {
      // What breaks on the way has one of these; the agent itself has another word for what it refuses.
      const broken = [Code.UNAVAILABLE, Code.INTERNAL, Code.CANCELLED, Code.UNKNOWN].includes(error.code);
      if (broken) return this.#unavailable(words, where, error);
    }
    const [Kind, advice] = known ?? [RequestRefused, "see why with `memboss lease why`"];
    return new Kind(words, where || this.path, advice, { cause: error });
  }

  #unavailable(reason: string, where: string, cause?: unknown): AgentUnavailable {
    const advice = "is memboss-agent running, and may this user open its socket?";
    return new AgentUnavailable(`the agent does not answer (${reason})`, where || this.path, advice, { cause });
  }
}

function pathOf(method: { readonly name: string; readonly parent: { readonly typeName: string } }): string {
  return `/${method.parent.typeName}/${method.name}`;
}

function serializer<D extends DescMessage>(schema: D): (message: MessageShape<D>) => Buffer {
  return (message) => Buffer.from(toBinary(schema, message));
}

function deserializer<D extends DescMessage>(schema: D): (bytes: Buffer) => MessageShape<D> {
  return (bytes) => fromBinary(schema, bytes);
}
