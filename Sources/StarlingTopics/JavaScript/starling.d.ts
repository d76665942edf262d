/** Where a client is. It begins with `connecting`; `closed` is final. */
export type State =
  | { readonly status: "connecting" }
  | { readonly status: "connected" }
  /** It comes back at `until`, milliseconds since 1970. */
  | { readonly status: "waiting"; readonly until: number }
  /** By `close()`, which is 1000, or because the server's close code says so: 1000, 1002, 1003, 1007 to 1010, 3000 to 4999. */
  | { readonly status: "closed"; readonly code: number; readonly reason: string };

/** Somebody who is present in a topic. */
export interface Member {
  readonly id: string;
  readonly info: string;
}

/** What happens in a topic, in the broker's order. */
export type Update<Event> =
  /** Something was published, by whomever. A text that is no JSON is a string, bytes are a `Uint8Array`. */
  | { readonly type: "event"; readonly event: Event; readonly position?: string }
  /** The subscription stands, the first time or again. If it is not `recovered`, publications before it are lost. Whoever keeps a list of members asks for it anew. */
  | { readonly type: "subscribed"; readonly recovered: boolean; readonly position?: string }
  /** Publications behind `after`, up to `position`, are lost for this client. Older servers say no `after`, nor does a gap that all are told of. */
  | { readonly type: "gap"; readonly position: string; readonly after?: string }
  | { readonly type: "joined"; readonly member: Member }
  | { readonly type: "left"; readonly member: Member }
  /** To `onupdate` alone, as the last update: the server refused the subscription, or the client is closed. Iterations throw the error. */
  | { readonly type: "ended"; readonly error?: StarlingError };

export interface TopicOptions<Event> {
  /** Subscribe from the publication after this one on; without it from now on. Counts if the client is not subscribed to the topic already. */
  position?: string;
  /** Subscribes at once, and is called with every update until `close()`. Nothing is buffered. */
  onupdate?: (update: Update<Event>) => void;
}

/**
 * A topic of a client. Everything that reads it shares one subscription, which comes back with the connection, from the position
 * it had; when the last reader is gone, the topic is left.
 *
 * An iteration that is behind by `bufferMax` updates makes the client leave the topic, and take it up again from its position
 * when half of them are taken: what a topic with a history holds is not lost. What has none says so, by `recovered`.
 */
export interface Topic<Event> extends AsyncIterable<Event> {
  readonly name: string;
  /** As `StarlingClient.publish`. */
  publish(event: Event, options?: PublishOptions): Promise<string | undefined>;
  /** Who is present. */
  members(): Promise<Member[]>;
  /**
   * What is published, without the updates that are no events. Ends when the client is closed; rejects if it was not a clean end.
   *
   * Where publications are lost it rejects with `gap`, in its turn; a topic without a history, which promises nothing, never does so.
   * The next `next()` goes on behind it. `for await` does not: it stops at a rejection. Whoever wants to go on in a loop iterates over
   * `updates()`, which has gaps as values. An iteration that has stopped and is behind by `bufferMax` updates ends, with `gap` once more.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<Event>;
  /** As the iteration over events, with everything else that happens in the topic: `gap`, and `subscribed` with `recovered`, are values. */
  updates(): AsyncIterableIterator<Update<Event>>;
  /** Ends `onupdate` and all iterations of this object. */
  close(): void;
}

export interface PublishOptions {
  /** 1 to 64 bytes, by which the server knows what was published already. Random by default: a page that publishes again after it was reloaded keeps its own. */
  key?: string;
}

/** What has a default. All times are in milliseconds. */
export interface Options {
  /** The class to connect with, if there is no global one: `ws` on Node before 22. */
  WebSocket?: new (url: string, protocols?: string | string[]) => unknown;
  /** Publications and requests without an answer, those that wait for a connection included; 1,000. */
  queueMax?: number;
  /** What happens to one more publication: `reject` it, the default, or the one that waits longest. One more request is always rejected. */
  queuePolicy?: "reject" | "drop-oldest";
  /** Updates that wait for one iteration; 256. */
  bufferMax?: number;
  /** The first wait is random between 0 and this; the next between 0 and twice this, and so on; 500. */
  waitMin?: number;
  /** No wait is longer, unless a server asks for it; 30,000. */
  waitMax?: number;
  /** After so long without a message the client asks whether the server is there; 25,000. */
  quietMax?: number;
  /** So long the server may take to answer that, to accept a connection, or to acknowledge; then the connection is given up; 10,000. */
  answerMax?: number;
  /** Whether to come back after a close code of the application's, 3000 to 4999; never by default. */
  comesBack?: (code: number, reason: string) => boolean;
}

/**
 * A client of a server that speaks `starling.v1.json`. It connects at once, and comes back until it is closed: after a random
 * wait, or at once when the network returns or the page is looked at again.
 *
 * `state` events say that `state` has changed. What is asked when it becomes `connected` goes out before all that waits: a
 * request that logs in, for example. Other requests follow, then subscriptions, then publications.
 */
export class StarlingClient extends EventTarget {
  /** Connects to a `ws:`, `wss:`, `http:` or `https:` URL, or one that is relative to the page's. Throws if it is none. */
  constructor(url: string | URL, options?: Options);
  readonly state: State;
  /** A topic, whose events have a type of the application's. Subscribes when it is read. */
  topic<Event = unknown>(name: string, options?: TopicOptions<Event>): Topic<Event>;
  /**
   * Publishes an event once, however often it must be sent: it waits in a queue until a server acknowledges it.
   *
   * Resolves with its position, if the topic has a history. Rejects with the codes of the server's errors, `queue-full`,
   * `dropped` or `closed`.
   */
  publish(topic: string, event: unknown, options?: PublishOptions): Promise<string | undefined>;
  /**
   * Asks the application. A request is sent once: if the connection is lost meanwhile, nobody knows whether it was done.
   *
   * Rejects with the codes of the server's errors, `lost`, `timeout`, `queue-full` or `closed`.
   */
  request<Reply = unknown>(name: string, data?: unknown, options?: { timeout?: number }): Promise<Reply>;
  /** Who is present in a topic. Rejects as `request` does. */
  members(topic: string): Promise<Member[]>;
  /** Comes back at once, if the client waits to come back. */
  retry(): void;
  /** Closes the connection for good. What is not acknowledged is rejected with `closed`. */
  close(): void;
}

/** Why something was not done. */
export class StarlingError extends Error {
  constructor(code: string, text: string);
  /** `closed`, `lost`, `gap`, `timeout`, `queue-full`, `dropped`, or a code of the server's: `forbidden`, for example. */
  readonly code: string;
}
