/**
 * Text to tokens and back: bytes, or a Hugging Face tokenizer that travels in the bundle.
 *
 * @typedef {{encode: (text: string, first: boolean) => number[],
 *            stream: (before: number[]) => {push: (token: number) => string, end: () => string}}} Tokenizer
 */
import { XlstmError } from "./session.js";

const CONTEXT = 8; // tokens before a piece of text that may change how it is written

/**
 * @param {any} manifest
 * @param {string} bundle its address.
 * @returns {Promise<Tokenizer>}
 */
export async function openTokenizer(manifest, bundle) {
  if (manifest.tokenizer === "bytes") return bytes;
  if (manifest.tokenizer === null) throw new XlstmError("bundle", "The bundle has no tokenizer: it takes token ids only.");
  const { Tokenizer } = await import("./library/tokenizers.min.mjs");
  const text = await (await fetch(bundle + manifest.tokenizer)).text();
  return huggingFace(new Tokenizer(JSON.parse(text), {}));
}

/** A token is a byte of the UTF-8 text. */
const bytes = {
  encode: (text) => [...new TextEncoder().encode(text)],
  stream() {
    const decoder = new TextDecoder();
    return { push: (token) => decoder.decode(Uint8Array.of(token), { stream: true }), end: () => decoder.decode() };
  },
};

function huggingFace(tokenizer) {
  const decode = (tokens) => (tokens.length ? tokenizer.decode(tokens, { skip_special_tokens: true }) : "");
  return {
    encode: (text, first) => tokenizer.encode(text, { add_special_tokens: first }).ids,
    // A token's text can depend on its neighbours, so it is decoded behind some of them, and held back while it ends
    // inside a character.
    stream(before) {
      let tokens = before.slice(-CONTEXT);
      let shown = decode(tokens);
      const rest = () => {
        const text = decode(tokens);
        const piece = text.slice(shown.length);
        shown = text;
        return piece;
      };
      return {
        push(token) {
          tokens.push(token);
          if (decode(tokens).endsWith("\ufffd")) return "";
          const piece = rest();
          if (tokens.length > 64) {
            tokens = tokens.slice(-CONTEXT);
            shown = decode(tokens);
          }
          return piece;
        },
        end: rest,
      };
    },
  };
}
