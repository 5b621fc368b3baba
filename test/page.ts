import { readFileSync } from 'node:fs'

interface Block {
  readonly code: string
  /** The `text` block behind it; '' without one. */
  readonly shown: string
}

/**
 * Reads the blocks of code of a page, each by the name behind its language; a `text` block has none and shows what the
 * one before it prints.
 *
 * @returns `block` gives one by its name, `untried` names those that it was never asked for
 */
export function readPage(path: string) {
  const page = readFileSync(path, 'utf8')
  const blocks = new Map<string, Block>()
  let last = ''
  for (const [, indent = '', language, name = '', text = ''] of page.matchAll(
    /^( *)```(\w+)(?: (\S+))?\n([\s\S]*?)^ *```$/gm,
  )) {
    const code = text.replaceAll(new RegExp(`^${indent}`, 'gm'), '')
    if (language === 'text') blocks.set(last, { code: blocks.get(last)?.code ?? '', shown: code })
    else blocks.set(name, { code, shown: '' })
    last = name
  }
  const untried = new Set(blocks.keys())

  function block(name: string): Block {
    untried.delete(name)
    const found = blocks.get(name)
    if (found) return found
    throw new Error(`Expected a block ${name} in ${path}, got ${[...blocks.keys()].join(', ')}`)
  }

  return { page, block, untried }
}
