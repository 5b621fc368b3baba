/**
 * What no log and no problem may show, wherever it stands: keys and tokens of ours (but for the public id of a key), JWTs,
 * credentials of a header, keys for webhooks. Each pattern takes a whole run of characters at once, so that a long text
 * costs no more than its length; those that begin anywhere else than such a run does are looked at once.
 */
const secrets: readonly (readonly [RegExp, string])[] = [
  [/\b(Bearer|Basic) +[\w.~+/=-]{4,}/gi, '$1 [redacted]'],
  [/(qk_[0-9a-f]{16}_)[\w-]+/g, '$1[redacted]'],
  [/qt_[\w.-]+/g, 'qt_[redacted]'],
  [/(?<![\w-])eyJ[\w-]{4,}\.[\w-]+\.[\w-]*/g, '[redacted]'],
  // Also as it stands in a URL or a JSON Pointer.
  [/whs(ec|k)_[\w+/=%~]+/g, 'whs$1_[redacted]'],
]

/** Up to a quote, white space or a bracket; in JSON also up to an escaped quote. */
const url = /[a-z][a-z+.-]{0,20}:\/\/(?:[^\s"'<>\\]|\\[^"])+/gi

/** The text without the secrets in it. What is JSON stays JSON. */
export function redact(text: string): string {
  const left = text.replaceAll(url, redactUrl)
  return secrets.reduce((left, [pattern, instead]) => left.replaceAll(pattern, instead), left)
}

/** Without user and password, query and fragment. */
function redactUrl(text: string): string {
  const end = text.search(/[?#]/)
  const shown = end === -1 ? text : `${text.slice(0, end + 1)}[redacted]`
  return shown.replace(/^([^:]+:\/\/)[^/]*@/, '$1[redacted]@')
}
