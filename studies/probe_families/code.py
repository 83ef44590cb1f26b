"""Python functions, judged by unit tests."""

from .shapes import Family, Item, family

KIND = "code"


def _functions(
    name: str, template: str, rows: list[tuple[str, str, str, list[str]]], *, max_tokens: int = 128
) -> Family:
    """Rows of (signature, what it does, body after `return`, tests as `call == value`)."""
    items = []
    for signature, does, body, tests in rows:
        function = signature.split("(")[0]
        expected = {"name": function, "tests": [f"assert {test}" for test in tests]}
        prompt = template.format(signature=signature, name=function, does=does)
        items.append(Item(prompt, expected, f"```python\ndef {signature}:\n    return {body}\n```"))
    return family(KIND, name, "code", max_tokens, items)


FAMILIES = (
    _functions(
        "numbers",
        "Write a Python function {signature} that returns {does}.",
        [
            ("add(a, b)", "the sum of a and b", "a + b", ["add(1, 2) == 3", "add(-1, 1) == 0"]),
            ("square(n)", "the square of n", "n * n", ["square(3) == 9", "square(-2) == 4"]),
            (
                "is_even(n)",
                "True when n is even",
                "n % 2 == 0",
                ["is_even(4) is True", "is_even(7) is False"],
            ),
            (
                "maximum(a, b)",
                "the larger of a and b",
                "a if a > b else b",
                ["maximum(2, 5) == 5", "maximum(9, -1) == 9"],
            ),
            ("double(x)", "twice x", "2 * x", ["double(4) == 8", "double(0) == 0"]),
            ("absolute(x)", "the absolute value of x", "abs(x)", ["absolute(-3) == 3", "absolute(5) == 5"]),
            ("cube(n)", "n to the power of three", "n ** 3", ["cube(2) == 8", "cube(-1) == -1"]),
        ],
    ),
    _functions(
        "strings",
        "I need a python helper called {signature}. It takes a string and gives back {does}.",
        [
            ("shout(text)", "the string in upper case", "text.upper()", ["shout('abc') == 'ABC'"]),
            (
                "reverse(text)",
                "the string reversed",
                "text[::-1]",
                ["reverse('abc') == 'cba'", "reverse('') == ''"],
            ),
            ("first_char(text)", "its first character", "text[0]", ["first_char('hello') == 'h'"]),
            (
                "count_a(text)",
                "how many times the letter a occurs in it",
                "text.count('a')",
                ["count_a('banana') == 3", "count_a('xyz') == 0"],
            ),
            (
                "is_palindrome(text)",
                "True if it reads the same backwards",
                "text == text[::-1]",
                ["is_palindrome('level')", "not is_palindrome('apple')"],
            ),
            (
                "word_count(text)",
                "the number of words in it",
                "len(text.split())",
                ["word_count('a b c') == 3", "word_count('hello') == 1"],
            ),
            (
                "strip_spaces(text)",
                "the string without any spaces",
                "text.replace(' ', '')",
                ["strip_spaces('a b c') == 'abc'"],
            ),
        ],
    ),
    _functions(
        "lists",
        "Implement {signature} in Python; it should return {does}.",
        [
            (
                "total(numbers)",
                "the sum of all numbers in the list",
                "sum(numbers)",
                ["total([1, 2, 3]) == 6", "total([]) == 0"],
            ),
            (
                "largest(numbers)",
                "the largest number in the list",
                "max(numbers)",
                ["largest([3, 9, 2]) == 9", "largest([-5, -2]) == -2"],
            ),
            ("last(items)", "the last element of the list", "items[-1]", ["last([1, 2, 3]) == 3"]),
            (
                "average(numbers)",
                "the mean of the numbers",
                "sum(numbers) / len(numbers)",
                ["average([2, 4]) == 3", "average([5]) == 5"],
            ),
            (
                "evens(numbers)",
                "a list of the even numbers only",
                "[n for n in numbers if n % 2 == 0]",
                ["evens([1, 2, 3, 4]) == [2, 4]"],
            ),
            (
                "unique(items)",
                "the list without duplicates, sorted",
                "sorted(set(items))",
                ["unique([3, 1, 3]) == [1, 3]"],
            ),
            (
                "count_items(items)",
                "the number of elements",
                "len(items)",
                ["count_items([1, 2]) == 2", "count_items([]) == 0"],
            ),
        ],
    ),
    _functions(
        "complete",
        'Complete this code:\n\ndef {signature}:\n    """Return {does}."""\n',
        [
            ("multiply(a, b)", "the product of a and b", "a * b", ["multiply(3, 4) == 12"]),
            (
                "is_positive(x)",
                "True if x is greater than zero",
                "x > 0",
                ["is_positive(2) is True", "is_positive(-2) is False"],
            ),
            ("minutes(hours)", "the number of minutes in so many hours", "hours * 60", ["minutes(2) == 120"]),
            (
                "full_name(first, last)",
                "first and last name with a space between",
                "first + ' ' + last",
                ["full_name('A', 'B') == 'A B'"],
            ),
            (
                "smallest(a, b, c)",
                "the smallest of the three numbers",
                "min(a, b, c)",
                ["smallest(3, 1, 2) == 1", "smallest(0, 5, 9) == 0"],
            ),
            ("area(width, height)", "the area of a rectangle", "width * height", ["area(2, 5) == 10"]),
            (
                "negate(flag)",
                "the opposite of the boolean flag",
                "not flag",
                ["negate(True) is False", "negate(False) is True"],
            ),
        ],
    ),
    _functions(
        "algorithms",
        "Using Python, define a function {signature} which computes {does}. Show the code.",
        [
            (
                "factorial(n)",
                "n factorial",
                "1 if n < 2 else n * factorial(n - 1)",
                ["factorial(5) == 120", "factorial(0) == 1"],  # 0! is the empty product
            ),
            (
                "fibonacci(n)",
                "the n-th Fibonacci number, where fibonacci(0) is 0 and fibonacci(1) is 1",
                # The prompt says where it starts: 0, 1 (OEIS A000045) and 1, 1 are both in use.
                "n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
                ["fibonacci(7) == 13", "fibonacci(0) == 0"],
            ),
            (
                "gcd(a, b)",
                "the greatest common divisor of a and b",
                "a if b == 0 else gcd(b, a % b)",  # Euclid, Elements, book VII, proposition 2
                ["gcd(12, 18) == 6", "gcd(7, 5) == 1"],
            ),
            (
                "is_prime(n)",
                "whether n is a prime number",
                "n > 1 and all(n % i for i in range(2, n))",
                ["is_prime(7)", "not is_prime(9)", "not is_prime(1)"],  # 1 has one divisor, a prime has two
            ),
            (
                "power(base, exponent)",
                "base raised to a whole exponent of at least 0",
                "base ** exponent",
                ["power(2, 5) == 32", "power(3, 0) == 1"],
            ),
            (
                "sum_to(n)",
                "the sum of the whole numbers from 1 to n",
                "n * (n + 1) // 2",  # n (n + 1) is even for every n
                ["sum_to(4) == 10", "sum_to(1) == 1"],
            ),
            (
                "count_vowels(word)",
                "the number of vowels in a lower-case word",
                "sum(c in 'aeiou' for c in word)",
                ["count_vowels('banana') == 3", "count_vowels('sky') == 0"],
            ),
        ],
        max_tokens=160,
    ),
    _functions(
        "conversions",
        "python: {signature} -> {does}. Code please, with no explanation.",
        [
            (
                "to_fahrenheit(celsius)",
                "degrees Fahrenheit",
                "celsius * 9 / 5 + 32",
                ["to_fahrenheit(100) == 212", "to_fahrenheit(0) == 32"],  # exact also in floats
            ),
            ("to_metres(kilometres)", "metres", "kilometres * 1000", ["to_metres(2) == 2000"]),
            ("to_int(text)", "the text as an integer", "int(text)", ["to_int('42') == 42"]),
            ("to_text(number)", "the number as a string", "str(number)", ["to_text(5) == '5'"]),
            ("to_seconds(minutes)", "seconds", "minutes * 60", ["to_seconds(3) == 180"]),
            (
                "to_list(text)",
                "list of the characters of the text",
                "list(text)",
                ["to_list('abc') == ['a', 'b', 'c']"],
            ),
            ("to_percent(share)", "the share times one hundred", "share * 100", ["to_percent(0.5) == 50"]),
        ],
    ),
)
