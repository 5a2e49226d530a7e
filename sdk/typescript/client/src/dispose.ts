/** `Symbol.asyncDispose` for the first releases of Node 20, which lack it. It must be imported before any class that is disposed of by it, and changes
 * nothing where the symbol is there. */

if (typeof Symbol.asyncDispose !== "symbol") {
  Object.defineProperty(Symbol, "asyncDispose", { value: Symbol("Symbol.asyncDispose") });
}
